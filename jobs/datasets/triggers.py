"""Trigger words: those that call up what an adapter has learnt, and nothing else."""

import re
from collections.abc import Iterable

_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{2,31}")

_WORDS = """
about above after again all also always and another any are around art artwork autumn away baby
back background bag ball bed bicycle big bird black blue boat body book bottle bowl box boy
brand bread bright brown business but cake camera can car card cat chair child christmas city
clean clear close closeup clothes cloud coat coffee cold color colour company computer cream cup
cute dark day desk detail detailed dinner discount dog door down drawing dress drink each ease
easter evening every eye face fall family fashion fast father field film fire fish flat flower
food for fresh friend from front fruit full fun game garden gift girl glass gold good grass
great green grey group hair hand happy has hat have head her here high him his holiday home hot
house how ice illustration image into isolated its jacket juice just kitchen lake lamp large
leaf light like line little logo long look love low lunch made make man many market men milk
minimal modern money month moon more morning most mother mountain mouth mug music name natural
nature near new nice night not nothing now ocean off offer office oil old one only open orange
our out outside over painting paper park party pattern people person phone photo photograph
photography picture pink plain plant plate play poster price print product professional purple
quality rain red restaurant ring river road room round sale sea season see she shirt shoe shop
shot show sign silver simple sit sky small snow soft some song special spring star stone store
street studio style summer sun sunny sweet table take tea texture than that the their them then
there these they thing this through time toy train tree two under use vector very view village
wall warm was watch water wear wedding week well were what when where which white who wide
window wine winter with woman women wood wooden word work world year yellow yes you young your
"""
COMMON = frozenset(_WORDS.split())
"""English words that captions and prompts are full of: learning one anew would spoil them all."""


def wrong(trigger: str) -> str | None:
    """Why ``trigger`` can be none."""
    if not _FORM.fullmatch(trigger):
        return "must be one word of 3 to 32 letters (a-z), digits, '-' and '_', such as brandx-mug"
    if trigger.lower() in COMMON:
        return (
            f"{trigger!r} is a common word, which would mean something else in every prompt; make "
            f"one up, such as {trigger.lower()}-x1"
        )
    return None


def uses(trigger: str, texts: Iterable[str]) -> int:
    """In how many of ``texts`` the trigger stands as a word."""
    word = re.compile(rf"(?<![\w-]){re.escape(trigger)}(?![\w-])", re.IGNORECASE)
    return sum(bool(word.search(text)) for text in texts)
