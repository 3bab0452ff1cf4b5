"""The commands of `spanmill training`, apart from the group so that its help stays quick."""
