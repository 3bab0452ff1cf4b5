"""English words that carry grammar, not content."""

_WORDS = """
a about above across after again against ago all almost along already also although always am
among an and another any anybody anyone anything are around as at away back be became because
become becomes been before behind being below beneath beside besides between beyond both but by
can cannot could despite did do does doing done down due during each eight eighty either eleven
else enough even ever every everybody everyone everything except few fewer fifteen fifty first
five for forty four from further get gets getting given got had hardly has have having he hence
her here hers herself him himself his how however hundred i if in indeed inside instead into is
it its itself just last least less let like made make makes making many may me might million
billion mine more most much must my myself near nearly neither never next nine ninety no nobody
none nor not nothing now of off often on once one ones only onto or other others otherwise ought
our ours ourselves out outside over own past per perhaps quite rather same second seven seventy
several shall she should since six sixty so some somebody someone something sometimes soon still
such ten than that the their theirs them themselves then there therefore these they third
thirteen thirty this those though thousand three through throughout thus till to together too
toward towards twelve twenty twice two under underneath unless unlike until up upon us used very
via was we well went were what whatever when whenever where whereas wherever whether which while
who whoever whole whom whose why will with within without would yes yet you your yours yourself
"""

FUNCTION_WORDS = frozenset(_WORDS.split())
