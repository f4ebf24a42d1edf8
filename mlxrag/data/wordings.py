"""The same question in other words, by rule: for turns of phrase that are common and whose sense is sure.

A weak reader may understand one wording and not the other; people use both.  A new one is a line in `WORDINGS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# (a whole question, other questions with the groups of the first)
WORDINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"How much does (.+) cost\?", ("What is the price of {0}?", "What does {0} cost?")),
    (r"How much did (.+) cost\?", ("What was the price of {0}?",)),
    (r"What was the price of (.+) in (\d{4})\?", ("How much did {0} cost in {1}?",)),
    (r"What is the dealer price of (.+)\?", ("How much do dealers pay for {0}?", "What does {0} cost a dealer?")),
    (r"How much does (.+) weigh\?", ("What is the weight of {0}?", "How heavy is {0}?")),
    (r"How much can (.+) carry\?", ("What is the maximum load of {0}?", "How much may be loaded on {0}?")),
    (r"How much does (.+) carry\?", ("How much can {0} carry?", "What load does {0} take?")),
    (r"How (wide|high|long) is (.+)\?", ("What is the {size} of {1}?",)),
    (r"How far does (.+) go\?", ("What is the range of {0}?",)),
    (r"How long does charging (.+) take\?", ("What is the charging time of {0}?",)),
    (r"How long is the (lead time|delivery time) for (.+)\?", ("What is the {0} for {1}?", "What is the {0} of {1}?")),
    (r"How long does the service (.+) take\?", ("What is the duration of the service {0}?", "How much time does the service {0} take?")),
    (r"Who supplies (.+)\?", ("What is the supplier of {0}?", "Who is the supplier of {0}?")),
    (r"On which shelf is (.+) kept\?", ("Which shelf is {0} on?", "Where in the store is {0}?", "What is the shelf of {0}?")),
    (r"Which models does (.+) fit\?", ("What does {0} fit?", "Which trailers does {0} fit?")),
    (r"How many pieces of (.+) are in stock in (.+)\?", ("What is the stock of {0} in {1}?", "How many of {0} are in stock in {1}?")),
    (r"In which town is (.+)\?", ("What town is {0} in?", "Which town is {0} in?")),
    (r"Who is the contact at (.+)\?", ("Who is the contact person of {0}?", "Who is the contact of {0}?")),
    (r"What is the phone number of (.+)\?", ("What is the phone of {0}?", "Which number does one call to reach {0}?")),
    (r"What is the address of (.+)\?", ("Which address does {0} have?",)),
    (r"On which days is (.+) closed\?", ("When is {0} closed?",)),
    (r"Since when has (.+) been a (dealer)\?", ("Since what year has {0} been a {1}?", "When did {0} become a {1}?")),
    (r"Which (services|certificates) does (.+) (offer|have)\?", ("What {0} does {1} {2}?", "What are the {0} of {1}?")),
    (r"Where is (.+) made\?", ("In which place is {0} made?",)),
    (r"What tyre pressure does (.+) need\?", ("What is the tyre pressure of {0}?",)),
    (r"What is the gross weight of (.+)\?", ("How much does {0} weigh when packed?",)),
    (r"What kind of (\w+) does (.+) have\?", ("What {0} does {1} have?", "What is the {0} of {1}?")),
    (r"What is the position of (.+)\?", ("What is {0}'s position?", "What does {0} work as?")),
    (r"Who chaired (.+)\?", ("Who was the chair of {0}?", "Who was in the chair at {0}?")),
    (r"Who took the minutes of (.+)\?", ("Who wrote the minutes of {0}?",)),
    (r"Who was excused from (.+)\?", ("Who was absent from {0}?",)),
    (r"Who is the editor of (.+)\?", ("Who edited {0}?", "Who edits {0}?")),
    (r"At what time (.+)\?", ("When {0}?",)),
    (r"How many days of (.+) does (.+) have (a .+)\?", ("How much {0} does {1} have {2}?", "How many days of {0} does {1} get {2}?")),
    (r"How quickly (.+)\?", ("Within what time {0}?",)),
    (r"For how long (.+)\?", ("How long {0}?",)),
    (r"What percentage of (.+)\?", ("How much of {0}?",)),
    (r"What should you do (when|if) (.+)\?", ("What must be done {0} {1}?",)),
    (r"Which costs more, (.+) or (.+)\?", ("Which is more expensive, {1} or {0}?",)),
    (r"Which is (\w+er), (.+) or (.+)\?", ("Which of the two is {0}, {2} or {1}?",)),
)  # fmt: skip
_SIZES = {"wide": "width", "high": "height", "long": "length"}


def wordings(question: str) -> Iterator[str]:
    """Yield a question in other words; nothing where no turn of phrase is known.

    Example:
        >>> list(wordings("How much does the Ox 60 weigh?"))
        ['What is the weight of the Ox 60?', 'How heavy is the Ox 60?']
    """
    for pattern, others in WORDINGS:
        match = re.fullmatch(pattern, question)
        if match:
            for other in others:
                yield other.format(*match.groups(), size=_SIZES.get(match[1], ""))
            return
