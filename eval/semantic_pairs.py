"""Pairs of questions for the semantic cache: the same in other words, and different ones that an encoder takes for it.

DIFFERENT are by hand, after reports; `generated` makes more of them by rules, each a kind of difference; PARAPHRASES
are by hand.
"""

from collections.abc import Iterator
from itertools import islice, product

Pair = tuple[str, str]

DIFFERENT: tuple[Pair, ...] = (
    ("What is 12 + 4?", "What is 12 * 4?"),
    ("Is 5 < 3?", "Is 5 > 3?"),
    ("What is the absolute value of -5 plus 2?", "What is the absolute value of 5 plus 2?"),
    ("How do I read a file in C?", "How do I read a file in C#?"),
    ("What does == do in JavaScript?", "What does === do in JavaScript?"),
    ("What does \U0001f44d mean?", "What does \U0001f44e mean?"),
    ("Count the capital letters in: Hello World", "Count the capital letters in: hello world"),
    ("Convert $20 to yen", "Convert \u20ac20 to yen"),
    ("Puedo tomar aspirina con alcohol", "No puedo tomar aspirina con alcohol"),
    ("Ist der Server an?", "Ist der Server aus?"),
    (
        "\u1230\u120b\u121d \u1290\u1205 \u12c8\u12ed",
        "\u12f0\u1205\u1293 \u12a5\u12f0\u122d \u12a0\u1295\u1270",
    ),
    (
        "\u1000\u103b\u103d\u1014\u103a\u1010\u1031\u102c\u103a \u1018\u101a\u103a"
        "\u101e\u103d\u102c\u1038\u101b\u1019\u101c\u1032",
        "\u101e\u1030\u1019 \u1018\u102c\u1005\u102c\u1038\u1001\u103b\u1004\u103a\u101c\u1032",
    ),
    (
        "\u0d94\u0db6\u0da7 \u0d9a\u0ddc\u0dc4\u0ddc\u0db8\u0daf",
        "\u0db8\u0da7 \u0db6\u0da9\u0d9c\u0dd2\u0db1\u0dd2 \u0daf\u0dd0\u0db1\u0dca",
    ),
    (
        "\u600e\u4e48\u9000\u6b3e\uff1f\u8bf7\u8bf4\u660e",
        "\u600e\u4e48\u7eed\u8d39\uff1f\u8bf7\u89e3\u91ca",
    ),
    ("Translate to French: I will go", "Translate to French: I will go!"),
    ("How do I increase the volume?", "How do I decrease the volume?"),
    ("Is A a parent of B?", "Is B a parent of A?"),
    ("What is \u00bd of 10?", "What is \u00bc of 10?"),
    ("Solve x=y", "Solve x\u2260y"),
    # that no rule of wording sees, so that the cosine has to
    ("Which train goes from Rome to Milan?", "What train do I take from Milan to Rome?"),
    ("Is coffee good for the heart?", "Is coffee bad for your heart?"),
    ("How can I increase the upload limit?", "What do I do to lower the upload limit?"),
    ("What is the capital of Australia?", "Which city is the capital of Austria?"),
    ("What is the March deadline?", "What is the march deadline?"),
    ("Do I need a visa for the US?", "Do I need a visa for the us"),
)

PARAPHRASES: tuple[Pair, ...] = (
    ("Explain how photosynthesis works.", "Can you explain the process of photosynthesis?"),
    ("What is the difference between TCP and UDP?", "How do TCP and UDP differ?"),
    ("Who painted the Mona Lisa?", "Which artist painted the Mona Lisa?"),
    ("What time zone is Tokyo in?", "Which time zone does Tokyo use?"),
    ("How do I delete my account?", "How can I remove my account?"),
    ("What does HTTP 404 mean?", "What is the meaning of HTTP status 404?"),
    ("How do I undo the last git commit?", "How can I revert my most recent commit in git?"),
    ("Can I pay by credit card?", "Do you accept credit cards?"),
    ("How do I reset my password?", "How can I reset my password?"),
    ("How do I reset my password?", "What is the way to reset my password?"),
    ("What are the opening hours of the shop?", "When is the shop open?"),
    ("What is the capital of France?", "Tell me the capital of France"),
    ("What is the capital of France?", "what is the capital of france"),
    ("What is Python?", "what is python?"),
    ("Who wrote Hamlet?", "Who is the author of Hamlet?"),
    ("How tall is Mount Everest?", "What is the height of Mount Everest?"),
    ("How do I install Docker on Ubuntu?", "How can I install Docker on Ubuntu?"),
    ("How do I install Docker on Ubuntu?", "What are the steps to install Docker on Ubuntu?"),
    ("Where can I download the invoice?", "Where do I find the invoice to download?"),
    ("How long does delivery take?", "How long is the delivery time?"),
    ("How long does delivery take?", "What is the delivery time?"),
    ("Do you ship to Canada?", "Is shipping to Canada possible?"),
    ("Do you ship to Canada?", "Can you ship to Canada?"),
    ("What is the return policy?", "What's your return policy?"),
    ("What is the return policy?", "Please tell me the return policy"),
    ("How do I cancel my subscription?", "How can I cancel my subscription?"),
    ("How do I cancel my subscription?", "I want to cancel my subscription, how?"),
    ("How do I change my email address?", "How can I update my email address?"),
    ("What is machine learning?", "Can you explain what machine learning is?"),
    ("What is machine learning?", "Explain machine learning"),
    ("What are the symptoms of flu?", "Which symptoms does flu have?"),
    ("What are the benefits of exercise?", "What benefits does exercise have?"),
    ("How many days of leave do I have?", "How many leave days do I get?"),
    ("How does a refrigerator work?", "Explain how a refrigerator works"),
    ("What is the boiling point of water?", "At what temperature does water boil?"),
    ("What is the speed of light?", "How fast is light?"),
    ("Who is the president of the company?", "Who is the company's president?"),
    ("How can I contact support?", "How do I contact support?"),
    ("How can I contact support?", "How do I get in touch with support?"),
    ("Where is my order?", "Where is my order right now?"),
    ("How do I merge two branches in git?", "How can I merge two branches in git?"),
    ("How do I list files in a directory?", "How can I list the files in a directory?"),
    ("What is a mutex?", "Could you explain what a mutex is?"),
    ("What is a foreign key in SQL?", "What does a foreign key in SQL do?"),
    ("Why is the sky blue?", "What is the reason that the sky is blue?"),
    ("Why is the sky blue?", "Why does the sky look blue?"),
    ("How do I boil an egg?", "What is the best way to boil an egg?"),
    ("How do plants make food?", "How is food made by plants?"),
)

NUMBERS = (("3", "4"), ("10", "100"), ("1.5", "15"), ("2", "-2"), ("7", "seven"), ("\u00bd", "\u00be"), ("5", "\u0665"))
SIGNS = (("+", "-"), ("<", "<="), ("==", "!="), ("&&", "||"), ("*", "**"), ("/", "//"), ("=", ":="), ("%", "^"))
MONEY = (("$", "\u20ac"), ("\u00a3", "\u00a5"), ("$", ""))
EMOJI = (("\U0001f600", "\U0001f622"), ("\u2705", "\u274c"), ("\u2b06", "\u2b07"), ("\u2764", "\U0001f494"))
CODE = (
    ("def f():\n    return 1", "def f():\n  return 1"),
    ("if x:\n    a()\n    b()", "if x:\n    a()\nb()"),
    ("a\tb", "a b"),
    ("userName", "username"),
    ("Foo()", "foo()"),
    ("x = [1]", "x = (1)"),
    ("a  b", "a b"),
    ("i++", "++i"),
)
ABOUT_CODE = ("What does this do?\n{}", "Explain `{}`", "Is this valid? {}", "What is the output of: {}")
OPPOSITES = (
    ("increase", "lower"),
    ("enable", "disable"),
    ("open", "close"),
    ("add", "remove"),
    ("start", "stop"),
    ("upload", "download"),
    ("show", "hide"),
    ("lock", "unlock"),
)
ABOUT_OPPOSITES = (
    ("How do I {} the port?", "How can I {} the port?"),
    ("How do I {} the port on the router?", "What is the way to {} the port on the router?"),
    ("Can you {} it for me?", "Could you please {} it for me?"),
)
NAMES = (
    ("Austria", "Australia"),
    ("Java", "JavaScript"),
    ("Paris", "London"),
    ("Monday", "Tuesday"),
    ("Slovakia", "Slovenia"),
    ("Windows", "Linux"),
    ("Niger", "Nigeria"),
    ("React", "Preact"),
)
ABOUT_NAMES = (("What is the weather in {}?", "How is the weather in {}?"), ("Tell me about {}", "What about {}?"))
ORDER = (
    ("Rome", "Milan"),
    ("euros", "dollars"),
    ("Alice", "Bob"),
    ("JSON", "XML"),
    ("Celsius", "Fahrenheit"),
    ("Excel", "CSV"),
)
ABOUT_ORDER = (
    ("How do I get from {} to {}?", "How can I get from {1} to {0}?"),
    ("Convert {} to {}", "How do I convert {1} to {0}?"),
    ("Is {} larger than {}?", "Is {1} larger than {0}?"),
)
NEGATED = (
    ("Which foods contain gluten?", "Which foods do not contain gluten?"),
    ("Can I drive with this licence?", "Can I drive without this licence?"),
    ("Why does it start?", "Why doesn't it start?"),
    ("Wann darf ich parken?", "Wann darf ich nicht parken?"),
    ("Est-ce que je peux manger?", "Est-ce que je ne peux pas manger?"),
    ("Posso bere il vino?", "Posso non bere il vino?"),
    ("All of them except one", "All of them"),
    ("Who has paid?", "Who has never paid?"),
)
LETTERS = (
    ("Hello World", "hello world"),
    ("stop.", "stop"),
    ("a b c", "abc"),
    ("Rose", "rose"),
    ("r\u00e9sum\u00e9", "resume"),
    ("cafe", "caf\u00e9"),
)
ABOUT_LETTERS = ("How is {} spelled?", "Reverse {}", "Translate: {}", 'How many words has "{}"?')
SCRIPTS = (
    (
        "\u041a\u0430\u043a \u043a\u0443\u043f\u0438\u0442\u044c?",
        "\u041a\u0430\u043a \u043f\u0440\u043e\u0434\u0430\u0442\u044c?",
    ),
    ("\u03a0\u03bf\u03cd \u03b5\u03af\u03bd\u03b1\u03b9;", "\u03a0\u03cc\u03c4\u03b5 \u03b5\u03af\u03bd\u03b1\u03b9;"),
    ("\u5317\u4eac\u5728\u54ea", "\u4e1c\u4eac\u5728\u54ea"),
    ("\u0643\u064a\u0641 \u0623\u0641\u062a\u062d", "\u0643\u064a\u0641 \u0623\u063a\u0644\u0642"),
    ("\u0915\u092c \u0916\u0941\u0932\u0924\u093e \u0939\u0948", "\u0915\u092c \u092c\u0902\u0926 \u0939\u0948"),
    ("\u05d0\u05d9\u05e4\u05d4 \u05d6\u05d4", "\u05de\u05ea\u05d9 \u05d6\u05d4"),
    ("\u3044\u3064\u958b\u304d\u307e\u3059\u304b", "\u3044\u3064\u9589\u307e\u308a\u307e\u3059\u304b"),
    ("\uc5b8\uc81c \uc5fd\ub2c8\uae4c", "\uc5b8\uc81c \ub2eb\uc2b5\ub2c8\uae4c"),
)
A_KIND = 40


def generated() -> dict[str, list[Pair]]:
    """Different questions by the kind of their difference; more than 200 pairs."""
    return {
        "numbers": _filled(("What is {} times 6?", "Add {} to the total", "Wait {} minutes, then what?"), NUMBERS),
        "signs": _filled(("What is a {} b?", "What does {} mean in Python?", "Why is x {} y slow?"), SIGNS),
        "money": _filled(("Convert {}50 to yen", "Is {}20 a good price?"), MONEY),
        "emoji": _filled(("What does {} mean?", "He sent me {} today. Why?", "{}"), EMOJI),
        "code": _filled(ABOUT_CODE, CODE),
        "opposites": _reworded(ABOUT_OPPOSITES, OPPOSITES),
        "names": _reworded(ABOUT_NAMES, NAMES),
        "order": [(a.format(*pair), b.format(*pair)) for (a, b), pair in product(ABOUT_ORDER, ORDER)],
        "negation": [*NEGATED],
        "letters": _filled(ABOUT_LETTERS, LETTERS),
        "scripts": [*SCRIPTS, *_filled(("What does {} mean?",), SCRIPTS)],
    }


def _filled(templates: tuple[str, ...], values: tuple[Pair, ...]) -> list[Pair]:
    """The same template about each of the two."""
    pairs: Iterator[Pair] = ((one.format(a), one.format(b)) for one, (a, b) in product(templates, values))
    return list(islice(pairs, A_KIND))


def _reworded(templates: tuple[Pair, ...], values: tuple[Pair, ...]) -> list[Pair]:
    """Two wordings of one template, each about another one of the two."""
    pairs: Iterator[Pair] = ((one.format(a), two.format(b)) for (one, two), (a, b) in product(templates, values))
    return list(islice(pairs, A_KIND))
