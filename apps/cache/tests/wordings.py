"""Pairs of questions: the same in other words, and others that a sentence encoder takes for the same."""

SAME = [
    ("Explain how photosynthesis works.", "Can you explain the process of photosynthesis?"),
    ("What is the difference between TCP and UDP?", "How do TCP and UDP differ?"),
    ("Who painted the Mona Lisa?", "Which artist painted the Mona Lisa?"),
    ("What time zone is Tokyo in?", "Which time zone does Tokyo use?"),
    ("How do I delete my account?", "How can I remove my account?"),
    ("What does HTTP 404 mean?", "What is the meaning of HTTP status 404?"),
    ("How do I undo the last git commit?", "How can I revert my most recent commit in git?"),
    ("Can I pay by credit card?", "Do you accept credit cards?"),
]
OTHERS = [
    ("Convert 10 miles to kilometres", "Convert 100 miles to kilometres"),
    ("What is 3 minus 5?", "What is 5 minus 3?"),
    ("Is it safe to take aspirin with alcohol?", "Is it not safe to take aspirin with alcohol?"),
    ("Which foods contain gluten?", "Which foods don't contain gluten?"),
    ("Flights from Paris to London", "Flights from London to Paris"),
    ("How do I increase the timeout?", "How do I decrease the timeout?"),
    ("Do you ship to Canada?", "Do you ship from Canada?"),
]
# that no rule of wording sees, so that the cosine has to
BEYOND_RULES = [
    ("Which train goes from Rome to Milan?", "What train do I take from Milan to Rome?"),
    ("Is coffee good for the heart?", "Is coffee bad for your heart?"),
    ("How can I increase the upload limit?", "What do I do to lower the upload limit?"),
    ("What is the capital of Australia?", "Which city is the capital of Austria?"),
]
