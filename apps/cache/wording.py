"""Whether two texts that are near in meaning may be the same question: cheap rules, for where cosines mislead.

A sentence encoder puts "from Paris to London" at 0.997 of its opposite, and does not see case, symbols, white space or
the letters of scripts that it was not trained on. So two texts are never the same question where they differ in one of
these, where one negates more often, where their names or opposites differ, where they have the same words in another
order, or where all that differs is one word in its place (enable for disable, Saturday for Sunday). What is refused
here is answered anew, which is never wrong.
"""

import re
import unicodedata
from collections.abc import Iterator

WORD = re.compile(r"\w+")
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
NEGATION = re.compile(
    r"\b(?:no|not|never|none|nobody|nothing|without|cannot|neither|nor|except|unless|nicht|kein\w*|nie|ohne|pas|jamais"
    r"|sans|nunca|sin|ningun\w*|n\u00e3o|sem|non|senza|mai|niet|geen|zonder|inte|ikke|aldrig)\b|n['\u2019]t\b",
    re.IGNORECASE,
)
QUOTED = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\"[^\"]*\"|\u201c[^\u201d]*\u201d|\u00ab[^\u00bb]*\u00bb|(?<!\w)'[^'\n]+'(?!\w)"
    r"|(?<!\w)\u2018[^\u2019\n]+\u2019(?!\w)|[(\[{<][^()\[\]{}<>]*[)\]}>]",
    re.DOTALL,
)
# what comes after a colon is what something is to be done with
GIVEN = re.compile(r":(?=\s)(.*)\Z", re.DOTALL)
INDENTATION = re.compile(r"^[ \t]*", re.MULTILINE)
SPACES = re.compile(r"[ \t]{2,}|\t")
AROUND_WORDS = ".,!?;:'\"\u2018\u2019\u201c\u201d"
BEFORE_SENTENCES = " \t\"'([*"
ENDING = "?. \t\r\n"
BETWEEN_LETTERS = re.compile(r"(?<=\w)['\u2019](?=\w)")
# questions about how something is written: there every letter counts
ABOUT_LETTERS = re.compile(
    r"\b(?:letters?|in capitals|capitali[sz]\w*|upper-?\s?case|lower-?\s?case|case-?\s?sensitiv\w*|spell\w*|misspel\w*"
    r"|characters?|vowels?|consonants?|syllables?|anagram\w*|palindrom\w*|rhym\w*|revers\w*|punctuat\w*|whitespace"
    r"|indent\w*|proofread\w*|regex\w*|emojis?|pronounc\w*|accents?|diacritic\w*)\b",
    re.IGNORECASE,
)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


NUMBER_WORDS = _set("""
zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion dozen half third quarter
double triple twice thrice second fourth fifth sixth seventh eighth ninth tenth
""")
DATES = _set("""
monday tuesday wednesday thursday friday saturday sunday january february march april may june july august september
october november december spring summer autumn winter today tomorrow yesterday tonight morning noon afternoon evening
midnight am pm
""")
# the noun or verb, and the name that is written like it but for its capital
CAPITONYMS = _set("polish turkey march may august china mercury mobile job reading nice lima chad pole")
FILLERS = _set("please the a an just exactly actually really so then now kindly hi hello hey thanks do")
# which may stand in any order
FUNCTION_WORDS = FILLERS | _set("""
how does did done can could may might shall should will would must i you we they he she it me my your our their its this
that these those is are was were be been am what which who whom whose when where why to of in on at for from by with and
or as if there here tell explain describe give show get got have has had want need like about way
""")
OPPOSITES = tuple(
    frozenset(pair.split("/"))
    for pair in sorted(
        _set("""
increase/decrease increase/reduce increase/lower raise/lower raise/reduce grow/shrink enable/disable on/off start/stop
begin/end open/close opened/closed lock/unlock before/after above/below over/under up/down left/right north/south
east/west in/out inside/outside into/from to/from import/export input/output upload/download push/pull send/receive
read/write encode/decode encrypt/decrypt compress/extract install/uninstall install/remove add/remove add/delete
create/delete create/remove insert/delete buy/sell lend/borrow win/lose pass/fail accept/reject allow/deny allow/block
show/hide enter/leave arrive/depart arrival/departure first/last min/max minimum/maximum least/most less/more fewer/more
smaller/larger smallest/largest shortest/longest lowest/highest cheapest/dearest best/worst better/worse good/bad
safe/dangerous hot/cold warm/cold fast/slow early/late earliest/latest old/new young/old oldest/newest true/false
positive/negative advantage/disadvantage advantages/disadvantages pros/cons benefit/risk benefits/risks cause/effect
causes/effects symptoms/treatment wife/husband mother/father son/daughter brother/sister male/female man/woman men/women
employer/employee lender/borrower buyer/seller teacher/student parent/child ascending/descending horizontal/vertical
rows/columns row/column width/height public/private local/remote internal/external client/server sync/async
static/dynamic odd/even gain/lose deposit/withdraw credit/debit assets/liabilities subscribe/unsubscribe follow/unfollow
like/dislike legal/illegal possible/impossible include/exclude with/without present/absent front/back top/bottom
sunrise/sunset day/night weekday/weekend domestic/international
""")
    )
)


def may_mean_the_same(one: str, two: str) -> bool:
    """Whether no rule tells the two questions apart; the cosine is for others to judge."""
    if one == two:
        return True
    if ABOUT_LETTERS.search(one) or ABOUT_LETTERS.search(two):
        return False
    return all(fact(one) == fact(two) for fact in FACTS) and _may_by_words(one, two)


def in_latin_script(text: str) -> bool:
    """Whether each letter of it is of the script that encoders of English know."""
    return all(_is_latin(letter) for letter in text if letter.isalpha())


def _is_latin(letter: str) -> bool:
    return letter.isascii() or "LATIN" in unicodedata.name(letter, "")


def _numbers(text: str) -> list[str]:
    number_words = [word for word in _words(text) if word in NUMBER_WORDS]
    odd = [letter for letter in text if not letter.isdecimal() and letter.isnumeric()]
    return [*NUMBER.findall(text), *odd, *number_words]


def _negations(text: str) -> int:
    return len(NEGATION.findall(text))


def _symbols(text: str) -> list[str]:
    """Each that is neither letter, digit nor space, in order: operators, currencies, emoji, punctuation.

    The mark that ends a question is none of them, nor is an apostrophe within a word.
    """
    text = BETWEEN_LETTERS.sub("", text.rstrip(ENDING))
    return [sign for sign in text if not (sign.isalnum() or sign.isspace() or sign == "_")]


def _literals(text: str) -> list[str]:
    """What is quoted, in brackets or given after a colon, exactly as it is written."""
    return [*QUOTED.findall(text), *(given.strip() for given in GIVEN.findall(text))]


def _spacing(text: str) -> list[str]:
    text = text.strip("\n").rstrip()
    lines = INDENTATION.findall(text) if "\n" in text else []
    return [*lines, *SPACES.findall(text.strip())]


def _dates(text: str) -> list[str]:
    return sorted(word for word in _words(text) if word in DATES)


def _letters_of_words(text: str) -> str:
    return "".join(_words(text))


def _written_out(text: str) -> list[str]:
    """Words with signs within them, as they are written: `i++`, `Foo()`, `node.js`; not `isn't`."""
    words = (BETWEEN_LETTERS.sub("", word.strip(AROUND_WORDS)) for word in text.split())
    return [word for word in words if not all(letter.isalnum() or letter == "-" for letter in word)]


FACTS = (_numbers, _negations, _symbols, _literals, _spacing, _written_out, _dates)


def _may_by_words(one: str, two: str) -> bool:
    ours, theirs = _words(one), _words(two)
    if not (_cased_alike(one, two) and _named_alike(one, two)):
        return False
    if ours == theirs:
        return True
    # apart for a part, every day for everyday; another accent makes another word
    if _letters_of_words(one) == _letters_of_words(two) or _folded(ours) == _folded(theirs):
        return False
    if _in_order(ours, theirs) != _in_order(theirs, ours):
        return False
    if any(_opposed(set(ours), set(theirs), pair) for pair in OPPOSITES):
        return False
    if len(ours) != len(theirs):
        return not _is_one_word_more(ours, theirs)
    differing = [at for at, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
    if len(differing) == 1:
        return _asks_how(ours, differing[0]) and _asks_how(theirs, differing[0])
    return sorted(ours) != sorted(theirs)


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def _folded(words: list[str]) -> list[str]:
    """Without accents, as an uncased encoder reads them."""
    apart = unicodedata.normalize("NFKD", " ".join(words))
    return "".join(sign for sign in apart if not unicodedata.combining(sign)).split()


def _in_order(words: list[str], others: list[str]) -> list[str]:
    """The words that the others have too, but for those that say little by their place."""
    shared = set(others) - FUNCTION_WORDS
    return list(dict.fromkeys(word for word in words if word in shared))


def _opposed(ours: set[str], theirs: set[str], pair: frozenset[str]) -> bool:
    """Whether each has another one of the two words, and not both."""
    mine, other = ours & pair, theirs & pair
    return bool(mine) and bool(other) and mine != other


def _asks_how(words: list[str], at: int) -> bool:
    """Whether the word is that of "how do I", "how can I", which are one question."""
    return at > 0 and words[at - 1] == "how" and words[at] in ("do", "can", "could")


def _is_one_word_more(ours: list[str], theirs: list[str]) -> bool:
    """Whether one is the other with a word between: "the cheapest flight" asks more than "the flight"."""
    short, long = sorted((ours, theirs), key=len)
    if len(long) != len(short) + 1:
        return False
    at = next((index for index, word in enumerate(short) if word != long[index]), len(short))
    return short[at:] == long[at + 1 :] and long[at] not in FILLERS


def _cased_alike(one: str, two: str) -> bool:
    """Whether words that both have are written alike, but for the capital of a name that one writes small."""
    ours, theirs = dict(_cased(one)), dict(_cased(two))
    return all(_may_be_cased(form, theirs[word], word) for word, form in ours.items() if word in theirs)


def _cased(text: str) -> Iterator[tuple[str, str]]:
    for found in WORD.finditer(text):
        form = found[0]
        # a sentence begins with a capital, whatever the word
        starts = form[1:].islower() and _begins_sentence(text, found.start())
        yield form.casefold(), form.casefold() if starts else form


def _begins_sentence(text: str, at: int) -> bool:
    while at and text[at - 1] in BEFORE_SENTENCES:
        at -= 1
    return not at or text[at - 1] in ".!?\n"


def _may_be_cased(one: str, two: str, word: str) -> bool:
    if one == two:
        return True
    plain = {word, word.capitalize()}
    return one in plain and two in plain and word not in CAPITONYMS and len(word) > 1


def _named_alike(one: str, two: str) -> bool:
    """Whether the names of both (words with a capital within a sentence) stand in both, and in the same order."""
    names = {word for text in (one, two) for word, form in _cased(text) if form != word and word != "i"}
    return [w for w in _words(one) if w in names] == [w for w in _words(two) if w in names]
