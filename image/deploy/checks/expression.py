"""Expressions of Bicep, ARM templates and Terraform: parsing into one tree, and evaluation.

The three languages share their expressions but for spelling, so one parser and one evaluator serve all.
Only what our templates use is known; anything else is an error, never a guess.

A tree is a tuple whose first item is its kind:
    ("value", v)                    ("text", [str | tree, ...])       ("name", n)
    ("member", tree, n)             ("index", tree, tree)             ("each", tree)         Terraform's [*]
    ("call", n, [tree, ...])        ("unary", op, tree)               ("binary", op, a, b)
    ("choose", if, then, else)      ("list", [tree, ...])             ("map", [(tree, tree), ...])
    ("for", [n, ...], over, key tree or None, body, condition or None)
"""

import re

BICEP, ARM, TERRAFORM = "bicep", "arm", "terraform"

OPERATORS = [["||"], ["&&"], ["==", "!="], ["<", ">", "<=", ">="], ["+", "-"], ["*", "/", "%"]]
TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|//[^\n]*|\#[^\n]*|/\*.*?\*/)
      | (?P<line>\n)
      | (?P<number>\d+)
      | (?P<name>[A-Za-z_][A-Za-z0-9_-]*)
      | (?P<quote>['"])
      | (?P<op>\|\||&&|==|!=|<=|>=|=>|[-+*/%<>=!?:.,(){}\[\]@])""",
    re.VERBOSE | re.DOTALL,
)


class TemplateError(Exception):
    """What is wrong with a template, and where."""


class Tokens:
    """The tokens of a text, with the text between quotes already parsed."""

    def __init__(self, text, dialect, name, line=1):
        self.dialect, self.name = dialect, name
        self.items = []
        self.at = 0
        self._split(text, line)

    def _split(self, text, line):
        at = 0
        while at < len(text):
            match = TOKEN.match(text, at)
            if not match:
                raise TemplateError(f"{self.name}:{line}: cannot read {text[at:at + 20]!r}")
            kind = match.lastgroup
            if kind == "quote":
                parts, end = self._text(text, match.end(), match.group(), line)
                self.items.append(("text", parts, line))
            else:
                end = match.end()
                if kind == "name" and self.dialect == BICEP and "-" in match.group():
                    # Bicep has no dashes in names.
                    end = at + match.group().index("-")
                    self.items.append(("name", text[at:end], line))
                elif kind != "space":
                    self.items.append((kind, match.group(), line))
            line += text.count("\n", at, end)
            at = end
        self.items.append(("end", "", line))

    def _text(self, text, at, quote, line):
        """Parts of a string from behind its opening quote, and where it ends."""
        parts, plain = [], ""
        while at < len(text):
            c = text[at]
            if c == quote:
                if self.dialect == ARM and text[at : at + 2] == "''":
                    plain, at = plain + "'", at + 2
                    continue
                return parts + ([plain] if plain or not parts else []), at + 1
            if c == "\\" and self.dialect != ARM:
                escapes = {"n": "\n", "t": "\t", "r": "\r"}
                plain, at = plain + escapes.get(text[at + 1], text[at + 1]), at + 2
            elif text.startswith("${", at) and self.dialect != ARM:
                end = self._closing(text, at + 2, line)
                inner = Tokens(text[at + 2 : end], self.dialect, self.name, line)
                parts += ([plain] if plain else []) + [parse(inner)]
                plain, at = "", end + 1
            else:
                plain, at = plain + c, at + 1
        raise TemplateError(f"{self.name}:{line}: the string does not end")

    def _closing(self, text, at, line):
        depth, quote = 1, None
        while at < len(text):
            c = text[at]
            if quote:
                quote = None if c == quote else quote
            elif c in "'\"":
                quote = c
            elif c in "{}":
                depth += 1 if c == "{" else -1
                if depth == 0:
                    return at
            at += 1
        raise TemplateError(f"{self.name}:{line}: ${{ has no end")

    def peek(self):
        return self.items[self.at]

    def next(self):
        self.at += 1
        return self.items[self.at - 1]

    def take(self, text):
        """Whether the next token is this one, which is then gone."""
        kind, value, _ = self.peek()
        if kind in ("op", "name") and value == text:
            self.at += 1
            return True
        return False

    def expect(self, text):
        if not self.take(text):
            self.fail(f"expected {text!r}")

    def skip_lines(self):
        while self.peek()[0] == "line":
            self.at += 1

    def fail(self, message):
        kind, value, line = self.peek()
        raise TemplateError(f"{self.name}:{line}: {message}, found {value if kind != 'line' else 'the end of the line'!r}")


def parse(tokens):
    """One expression that is the whole of the tokens."""
    tree = expression(tokens)
    tokens.skip_lines()
    if tokens.peek()[0] != "end":
        tokens.fail("expected the end")
    return tree


def expression(tokens):
    tree = binary(tokens, 0)
    if tokens.take("?"):
        tokens.skip_lines()
        then = expression(tokens)
        tokens.skip_lines()
        tokens.expect(":")
        tokens.skip_lines()
        return ("choose", tree, then, expression(tokens))
    return tree


def binary(tokens, level):
    if level == len(OPERATORS):
        return unary(tokens)
    left = binary(tokens, level + 1)
    while tokens.peek()[0] == "op" and tokens.peek()[1] in OPERATORS[level]:
        operator = tokens.next()[1]
        left = ("binary", operator, left, binary(tokens, level + 1))
    return left


def unary(tokens):
    for operator in ("!", "-"):
        if tokens.take(operator):
            return ("unary", operator, unary(tokens))
    return postfix(tokens)


def postfix(tokens):
    tree = primary(tokens)
    while True:
        if tokens.take("."):
            tree = ("member", tree, tokens.next()[1])
        elif tokens.take("["):
            if tokens.take("*"):
                tree = ("each", tree)
            else:
                tree = ("index", tree, expression(tokens))
            tokens.expect("]")
        else:
            return tree


def primary(tokens):
    kind, value, _ = tokens.next()
    if kind == "number":
        return ("value", int(value))
    if kind == "text":
        return ("text", value)
    if kind == "name":
        if tokens.take("("):
            return ("call", value, items(tokens, ")"))
        if value in ("true", "false", "null"):
            return ("value", {"true": True, "false": False, "null": None}[value])
        return ("name", value)
    if value == "(":
        tokens.skip_lines()
        tree = expression(tokens)
        tokens.skip_lines()
        tokens.expect(")")
        return tree
    if value in ("[", "{"):
        tokens.skip_lines()
        close = "]" if value == "[" else "}"
        if tokens.peek()[:2] == ("name", "for"):
            return comprehension(tokens, close)
        return ("list", items(tokens, close)) if close == "]" else ("map", entries(tokens))
    tokens.at -= 1
    return tokens.fail("expected an expression")


def items(tokens, close):
    """Expressions up to the bracket, between commas or, in Bicep, lines."""
    found = []
    while True:
        tokens.skip_lines()
        if tokens.take(close):
            return found
        found.append(expression(tokens))
        tokens.skip_lines()
        tokens.take(",")


def entries(tokens):
    found = []
    while True:
        tokens.skip_lines()
        if tokens.take("}"):
            return found
        kind, value, _ = tokens.next()
        if kind == "op" and value == "(":
            key = expression(tokens)
            tokens.expect(")")
        elif kind in ("name", "text"):
            key = ("text", [value] if kind == "name" else value)
        else:
            tokens.fail("expected a key")
        if not tokens.take("="):
            tokens.expect(":")
        tokens.skip_lines()
        found.append((key, expression(tokens)))
        tokens.take(",")


def comprehension(tokens, close):
    tokens.expect("for")
    bracket = tokens.take("(")
    names = [tokens.next()[1]]
    while tokens.take(","):
        names.append(tokens.next()[1])
    if bracket:
        tokens.expect(")")
    tokens.expect("in")
    over = expression(tokens)
    tokens.expect(":")
    tokens.skip_lines()
    key, body = None, expression(tokens)
    if tokens.take("=>"):
        key, body = body, expression(tokens)
    condition = expression(tokens) if tokens.take("if") else None
    tokens.skip_lines()
    tokens.expect(close)
    return ("for", names, over, key, body, condition)


def evaluate(tree, lookup, functions):
    """The value of a tree. `lookup` knows names, and raises KeyError for those that are not defined."""

    def value_of(tree):
        return evaluate(tree, lookup, functions)

    kind = tree[0]
    if kind == "value":
        return tree[1]
    if kind == "text":
        parts = [part if isinstance(part, str) else value_of(part) for part in tree[1]]
        return "".join(written(part) for part in parts)
    if kind == "name":
        try:
            return lookup(tree[1])
        except KeyError:
            raise TemplateError(f"{tree[1]} is not defined") from None
    if kind in ("member", "index"):
        key = tree[2] if kind == "member" else value_of(tree[2])
        return access(value_of(tree[1]), key)
    if kind == "each":
        return Each(value_of(tree[1]))
    if kind == "call":
        if tree[1] not in functions:
            raise TemplateError(f"{tree[1]}() is not known to this checker")
        function = functions[tree[1]]
        if getattr(function, "lazy", False):
            return function(value_of, *tree[2])
        return function(*[value_of(argument) for argument in tree[2]])
    if kind == "unary":
        value = value_of(tree[2])
        return not value if tree[1] == "!" else -value
    if kind == "binary":
        return operate(tree[1], value_of(tree[2]), lambda: value_of(tree[3]))
    if kind == "choose":
        return value_of(tree[2] if value_of(tree[1]) else tree[3])
    if kind == "list":
        return [value_of(item) for item in tree[1]]
    if kind == "map":
        return {value_of(key): value_of(value) for key, value in tree[1]}
    if kind == "for":
        return repeat(tree, lookup, functions)
    raise AssertionError(kind)


class Each(list):
    """What stands before Terraform's [*]: members are taken of each."""


def access(value, key):
    if isinstance(value, Each):
        return [access(item, key) for item in value]
    try:
        return value[key]
    except (KeyError, IndexError, TypeError):
        raise TemplateError(f"there is no {key!r} in {str(value)[:120]}") from None


def repeat(tree, lookup, functions):
    _, names, over, key, body, condition = tree
    values = evaluate(over, lookup, functions)
    if isinstance(values, dict):
        rounds = [(k, values[k]) for k in sorted(values)]
        rounds = [r if len(names) == 2 else r[1:] for r in rounds]
    elif len(names) == 2:
        # Bicep counts behind the item, Terraform before it; a key makes it Terraform's, and so do our names.
        rounds = [(i, v) if names[0] == "i" else (v, i) for i, v in enumerate(values)]
    else:
        rounds = [(v,) for v in values]
    made = []
    for values in rounds:
        local = dict(zip(names, values))
        inner = lambda name, local=local: local[name] if name in local else lookup(name)
        if condition is None or evaluate(condition, inner, functions):
            one = evaluate(body, inner, functions)
            made.append(one if key is None else (evaluate(key, inner, functions), one))
    return made if key is None else dict(made)


def operate(operator, left, right):
    if operator == "||":
        return left or right()
    if operator == "&&":
        return left and right()
    right = right()
    return {
        "==": lambda: left == right,
        "!=": lambda: left != right,
        "<": lambda: left < right,
        ">": lambda: left > right,
        "<=": lambda: left <= right,
        ">=": lambda: left >= right,
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        # Bicep divides whole numbers; our Terraform says floor().
        "/": lambda: left // right,
        "%": lambda: left % right,
    }[operator]()


def written(value):
    """A value within a string."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def names_in(tree):
    """All names that a tree speaks of, but for those it binds itself."""
    if isinstance(tree, tuple) and tree and tree[0] == "name":
        return {tree[1]}
    if isinstance(tree, tuple) and tree and tree[0] == "member":
        return names_in(tree[1])
    if isinstance(tree, tuple) and tree and tree[0] == "for":
        return names_in(tree[2]) | (names_in(tree[3]) | names_in(tree[4]) | names_in(tree[5])) - set(tree[1])
    if isinstance(tree, (tuple, list)):
        return set().union(*[names_in(item) for item in tree]) if tree else set()
    return set()
