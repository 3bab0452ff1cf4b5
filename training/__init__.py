"""The training wing makes the bundles that workers load."""
