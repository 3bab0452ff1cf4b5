"""The built-in sample of every bundle: sentences written for it, some without the answer."""

_BRIDGE = (
    "The Harrow Bridge was opened on 14 May 1907 after six years of work. Its engineer, Leonie"
    " Kastner, had first proposed a tunnel, but the city refused to pay for it. The bridge is 412"
    " metres long and carries two tram lines and a footpath; lorries have been banned since 1988."
)
_BEES = (
    "Stingless bees store honey in small pots of wax and resin rather than in combs. A colony of"
    " the genus Melipona yields one to three litres a year, far less than the western honey bee,"
    " yet the honey fetches a higher price because of its sour taste. Keepers harvest it with a"
    " syringe, so that the pots stay whole."
)
_CASSETTE = (
    "In 1963 engineers in Hasselt presented a tape cartridge small enough for a shirt pocket. The"
    " company licensed it free of charge to other makers, which made it the standard within a few"
    " years. Sales of recorded cassettes overtook vinyl records in 1983 and fell behind compact"
    " discs ten years later."
)
_MARKET = (
    "Every Thursday the night market of Tainan moves to the field behind the stadium. About 400"
    " stalls open at six in the evening; the oldest of them has sold oyster omelettes since 1976."
    " In the typhoon of 2009 the market stayed closed for three weeks, the longest break so far."
)

#: Question and context.
SAMPLE: tuple[tuple[str, str], ...] = (
    ("When was the Harrow Bridge opened?", _BRIDGE),
    ("Who was the engineer of the bridge?", _BRIDGE),
    ("How long is the bridge?", _BRIDGE),
    ("How much did the bridge cost?", _BRIDGE),
    ("Where do stingless bees store their honey?", _BEES),
    ("How do keepers harvest the honey?", _BEES),
    ("Which disease threatens the Melipona?", _BEES),
    ("Where was the tape cartridge presented?", _CASSETTE),
    ("When did sales of cassettes overtake vinyl records?", _CASSETTE),
    ("Who invented the compact disc?", _CASSETTE),
    ("What has the oldest stall sold since 1976?", _MARKET),
    ("How many stalls open at six in the evening?", _MARKET),
)
