"""Game of 24: make a target from four numbers with + - * /. The problems of the sets have the target
24 and numbers from 1 to 20; the same numbers in another order are the same problem. Other targets (of
any numbers) and numbers up to 30 exist only for training: there are 8,855 problems with target 24 in
all, and the sets hold 7,000 of them.

The level is the number of ways to the target (pairs of numbers combined, order of commuting operands
not counted): 1 many, 2 some, 3 few, 4 none at all.
"""

from fractions import Fraction as F
from functools import lru_cache
from itertools import combinations_with_replacement

LEVELS = range(1, 5)
TARGET = 24


def show(x):
    return str(x)


def moves(numbers):
    """All (a, sign, b, result, numbers left) of two numbers out of a sorted tuple; a sorted tuple is left."""
    seen = set()
    for i in range(len(numbers)):
        for j in range(i):
            a, b = numbers[i], numbers[j]
            if (a, b) in seen:
                continue
            seen.add((a, b))
            rest = numbers[:j] + numbers[j + 1:i] + numbers[i + 1:]
            results = [(a, "+", b, a + b), (a, "*", b, a * b), (a, "-", b, a - b)]
            if b:
                results.append((a, "/", b, a / b))
            if a and a != b:
                results.append((b, "/", a, b / a))
            for m in results:
                yield m + (tuple(sorted(rest + (m[3],))),)


@lru_cache(maxsize=1 << 20)
def ways(numbers, target=TARGET):
    if len(numbers) == 1:
        return int(numbers[0] == target)
    return sum(ways(m[4], target) for m in moves(numbers))


def level(numbers, target=TARGET):
    n = ways(numbers, target)
    return 4 if n == 0 else 3 if n <= 4 else 2 if n <= 11 else 1


def all_problems():
    return [tuple(map(F, c)) for c in combinations_with_replacement(range(1, 21), 4)]


def path(rng, numbers, targets, tries=1 << 20):
    """A random way from numbers to one of the targets through whole numbers up to 999, as
    [(a, sign, b, result, left)], by trial; None when none was found."""
    for _ in range(tries):
        left, out = list(numbers), []
        while len(left) > 1:
            rng.shuffle(left)
            a, b = left.pop(), left.pop()
            a, b = max(a, b), min(a, b)
            sign = rng.choice("++--**/")
            if sign == "/" and (b == 0 or a % b):
                sign = "-"
            y = a + b if sign == "+" else a - b if sign == "-" else a * b if sign == "*" else a // b
            if y > 999 or (y == 0 and len(left) > 0):
                break
            left.append(y)
            out.append((a, sign, b, y, tuple(sorted(left))))
        else:
            if left[0] in targets:
                return out
    return None


def prompt(rng, numbers, target=TARGET):
    order = list(numbers)
    rng.shuffle(order)
    return f"Use {', '.join(map(show, order[:-1]))} and {show(order[-1])} to make {target}."


def solution(steps):
    texts = {}
    lines = []
    for k, (a, sign, b, y, left) in enumerate(steps, 1):
        lines.append(f"Step {k}: {show(a)}{sign}{show(b)}={show(y)}, left {','.join(map(show, left))}")
        parts = [texts[v].pop() if texts.get(v) else show(v) for v in (a, b)]
        wrapped = [t if t.isdigit() else f"({t})" for t in parts]
        texts.setdefault(y, []).append(f"{wrapped[0]}{sign}{wrapped[1]}")
        last = texts[y][-1]
    return "\n".join(lines) + f"\n\\boxed{{{last}}}"


def evaluate(text):
    """(value, sorted numbers used) of an expression in + - * / and brackets, or None."""
    used, pos = [], 0
    text = text.replace(" ", "")

    def atom(depth):
        nonlocal pos
        if pos < len(text) and text[pos] == "(" and depth < 16:
            pos += 1
            value = total(depth + 1)
            if pos >= len(text) or text[pos] != ")":
                raise ValueError
            pos += 1
            return value
        begin = pos
        while pos < len(text) and text[pos].isdigit() and text[pos].isascii():
            pos += 1
        value = F(int(text[begin:pos]))
        used.append(value)
        return value

    def product(depth):
        nonlocal pos
        value = atom(depth)
        while pos < len(text) and text[pos] in "*/":
            sign = text[pos]
            pos += 1
            value = value * atom(depth) if sign == "*" else value / atom(depth)
        return value

    def total(depth):
        nonlocal pos
        value = product(depth)
        while pos < len(text) and text[pos] in "+-":
            sign = text[pos]
            pos += 1
            value = value + product(depth) if sign == "+" else value - product(depth)
        return value

    try:
        value = total(0)
        return (value, tuple(sorted(used))) if pos == len(text) else None
    except (ValueError, ZeroDivisionError):
        return None


def right(answer, numbers, target=TARGET):
    return evaluate(answer) == (target, tuple(sorted(numbers)))
