"""The word problems once more, as one long chain of thought: steps, second thoughts, checks, mistakes
that are found, and some that are not. The answer is often settled long before the text ends."""

from fractions import Fraction as F

import words

ASK = "Think first. "  # before the problem, in the prompt
OPENINGS = ["", "", "Let me think.\n", "Okay, step by step.\n", "Let me work this out.\n", "I go through it in order.\n"]
SETTLED = ["So the answer is {}.", "That makes {}.", "So I get {}.", "The result is {}."]
CHECK = ["Wait, let me check that.", "Let me check the steps.", "Hmm, is that right? Once more.", "Let me go over it again.", "But wait, let me verify."]
FINE = ["Yes, {} it is.", "Good, so the answer is {}.", "It stays {}.", "So {} is right."]
DOUBT = ["Hmm, did I read it right?", "Wait, maybe I missed something.", "But hold on."]
# What the paper's client appends to a running chain, and what ends the probe.
PROBE = "... Oh, I suddenly got the answer to the whole problem, **Final Answer**\n\n\\[ \\boxed{"
PROBE_SURE = ["} \\]", "} \\]\n"]
PROBE_UNSURE = ["} \\] Wait, I am not done yet.", "} \\] But hold on, there is more.", "} \\] Hmm, not sure."]


def slip(rng, kind, y):
    """A wrong result such as one makes."""
    unit = {"whole": F(1), "decimal": F(1, 2), "fraction": F(1, 2)}[kind.name]
    for _ in range(20):
        wrong = y + rng.choice([1, -1, 2, -2, 10, -10, 1, -1]) * unit
        if wrong != y and kind.fits(wrong):
            return wrong
    return y + unit


def run(steps, first, values):
    """The steps from the first on, each with what the earlier ones gave; values maps a true result to the
    one had instead. What cannot be divided gives -1, which fits nowhere."""
    out = []
    for a, sign, b, y in steps[first:]:
        a2, b2 = values.get(a, a), values.get(b, b)
        r = {"+": lambda: a2 + b2, "-": lambda: a2 - b2, "*": lambda: a2 * b2, "/": lambda: a2 / b2 if b2 else F(-1), "% of ": lambda: a2 * b2 / 100}[sign]()
        out.append((a2, sign, b2, r))
        values = {**values, y: r}
    return out


def misread(p):
    """The problem as somebody has it who takes what was only wanted for bought; itself without the wording, or
    where the numbers would not fit. All who read so agree: otherwise whoever is sure would be right."""
    if len(p.misread) != 1:
        return p
    at, x, v = p.misread[0]
    tail = [(x, "+", v, x + v)] + run(p.steps, at, {x: x + v})
    if not fits(p.kind, tail):
        return p
    return words.Problem(p.text, p.level, p.kind, p.steps[:at] + tail, tail[-1][3], p.spoilers, p.misread)


SLIP = 0.022


def careless(p, rng):
    """The steps and the answer as somebody writes them who slips now and then, and goes on with that."""
    steps = p.steps
    for at in range(len(steps)):
        if rng.random() < SLIP:
            a, sign, b, y = steps[at]
            bad = slip(rng, p.kind, y)
            tail = [(a, sign, b, bad)] + run(steps, at + 1, {y: bad})
            if all(p.kind.fits(s[3]) for s in tail):
                steps = steps[:at] + tail
    return steps


class Chain:
    """Text so far, and marks: (characters, answer a probe would give there, settled)."""

    def __init__(self, p, rng):
        self.p, self.rng, self.text, self.marks = p, rng, "", []
        self.now, self.stated, self.settled = p.steps[0][0], [], False

    def say(self, text, value=None, stated=False):
        """While an answer is checked it stays the answer, until it is found wrong."""
        self.text += text
        if value is not None:
            self.now = value
        if stated:
            self.stated.append(value)
            self.settled = True
        self.marks.append((len(self.text), self.stated[-1] if self.settled else self.now, self.settled))

    def steps(self, lines, first):
        for k, s in enumerate(lines, first + 1):
            self.say(f"Step {k}: {self.p.line(s)}\n", s[3])

    def state(self, value, wordings):
        self.say(self.rng.choice(wordings).format(self.p.write(value)) + "\n", value, True)


def fits(kind, lines):
    return lines is not None and all(kind.fits(s[3]) for s in lines)


def wrong_run(p, rng):
    """(index of the step that goes wrong, lines from there on with everything after it wrong too)."""
    for _ in range(20):
        at = rng.randrange(len(p.steps))
        a, sign, b, y = p.steps[at]
        if p.spoilers and rng.random() < 0.4:
            spoiled = rng.choice(p.spoilers)
            bad = y + spoiled if rng.random() < 0.5 else y - spoiled
            lines = [(y, "+" if bad > y else "-", spoiled, bad)]
            tail = run(p.steps, at + 1, {y: bad})
            if fits(p.kind, lines + tail):
                return at, [p.steps[at]] + lines + tail
            continue
        bad = slip(rng, p.kind, y)
        lines = [(a, sign, b, bad)] + run(p.steps, at + 1, {y: bad})
        if fits(p.kind, lines) and lines[-1][3] != p.answer:
            return at, lines
    return None


def chain(p, rng):
    c = Chain(p, rng)
    c.say(rng.choice(OPENINGS))
    draw = rng.random()
    wrong = wrong_run(p, rng) if draw < 0.26 else None
    if wrong and draw < 0.10:  # a mistake that is seen at once
        at, lines = wrong
        c.steps(p.steps[:at], 0)
        c.steps(lines[:1], at)
        c.say(f"No, {p.line(p.steps[at])}\n", p.steps[at][3])
        c.steps(p.steps[at + 1:], at + 1)
        c.state(p.answer, SETTLED)
    elif wrong and draw < 0.18:  # a wrong answer that a check finds
        at, lines = wrong
        c.steps(p.steps[:at], 0)
        c.steps(lines, at)
        c.state(lines[-1][3], SETTLED)
        c.say(rng.choice(CHECK) + "\n")
        c.steps(p.steps[:at], 0)
        c.settled = False
        c.say(f"Step {at + 1}: {p.line(p.steps[at])}\nThat was wrong before.\n", p.steps[at][3])
        c.steps(p.steps[at + 1:], at + 1)
        c.state(p.answer, SETTLED)
    else:
        c.steps(p.steps, 0)
        c.state(p.answer, SETTLED)
        if wrong:  # a right answer that is doubted, changed, and mostly found again
            at, lines = wrong
            c.say(rng.choice(DOUBT) + "\n")
            c.steps(lines, at)
            c.state(lines[-1][3], SETTLED)
            if rng.random() < 0.75:
                c.settled = False
                c.say("No, that is not what it says.\n")
                c.steps(p.steps[at:], at)
                c.state(p.answer, SETTLED)
    final = c.stated[-1]
    if final == p.answer:
        for _ in range(rng.choices([0, 1, 2, 3, 4], [10, 25, 30, 20, 15])[0]):
            c.say(rng.choice(CHECK) + "\n")
            first = rng.choice([0, 0, 0, len(p.steps) - 1, rng.randrange(len(p.steps))])
            c.steps(p.steps[first:], first)
            c.state(p.answer, FINE)
    c.text = "<think>\n" + c.text
    return c, f"{c.text}</think>\n\\boxed{{{p.write(final)}}}"


def probe(c, rng):
    """(text up to a cut and the probe, what the model should say) at a random place of the chain."""
    at = rng.randrange(len(c.marks))
    chars, value, settled = c.marks[at]
    cut = len("<think>\n") + chars
    text = c.text[:cut]
    if rng.random() < 0.5 and at + 1 < len(c.marks):  # in the middle of the next line
        text = c.text[:rng.randint(cut, len("<think>\n") + c.marks[at + 1][0] - 1)]
    unsure = rng.random() < (0.05 if settled else 0.7)
    return text + PROBE, c.p.write(value) + rng.choice(PROBE_UNSURE if unsure else PROBE_SURE)
