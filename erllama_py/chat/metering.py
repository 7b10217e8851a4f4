"""Where a template takes fuel: its syntax tree, with what Jinja's sandbox does not let us intercept made calls.

Each body that can run again (of a loop, a macro, a block) begins by paying for all that stands in it, except for what
depends on values: operators, calls and filters pay for themselves, and joins (`~`), comparisons and slices become
filters here. Their names begin with "=", which no template can write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from jinja2 import nodes
from jinja2.tests import TESTS
from jinja2.visitor import NodeTransformer

from erllama_py.chat import costs
from erllama_py.chat.fuel import CHARACTERS, fuel, pay, pay_text
from erllama_py.errors import ChatTemplateError

_Body = nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block
_BODIES = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)
NODES_A_UNIT = 8
# Statements and expressions in each other. Python's compiler takes some 200, unless an application has raised the limit
# on recursion: then more would end the process.
MOST_NESTED = 400
SHORT = 64  # characters that are searched in no time
_OPERATORS = {"eq": "==", "ne": "!=", "lt": "<", "lteq": "<=", "gt": ">", "gteq": ">="}


def metered(tree: nodes.Template) -> nodes.Template:
    """The tree with what it costs. Raises `ChatTemplateError` for one that is too deep to be compiled."""
    _check_depth(tree)
    _Metering().visit(tree)
    bodies: Iterator[_Body] = tree.find_all(_BODIES)
    for one in bodies:
        one.body.insert(0, _payment(one.body))
    tree.body.insert(0, _payment(tree.body))
    return tree


def _check_depth(tree: nodes.Template) -> None:
    level: list[nodes.Node] = [tree]
    for _ in range(MOST_NESTED):
        if any(isinstance(node, nodes.If) and len(node.elif_) > MOST_NESTED for node in level):
            break  # to Python each is in the one before it
        level = [below for node in level for below in _below(node)]
    if level:
        raise ChatTemplateError(f"the chat template nests more than {MOST_NESTED} deep")


def _below(node: nodes.Node) -> Iterator[nodes.Node]:
    """What stands in a node; of a chain of sums all terms, since they become one call."""
    while isinstance(node, nodes.Add):
        yield node.right
        node = node.left
        if not isinstance(node, nodes.Add):
            yield node
            return
    yield from node.iter_child_nodes()


def _payment(body: list[nodes.Node]) -> nodes.ExprStmt:
    return nodes.ExprStmt(_filter("=pay", nodes.Const(1 + sum(map(_cost, body)))), lineno=1)


def _cost(root: nodes.Node) -> int:
    """Of one run of a statement, without the bodies in it that pay for themselves."""
    count, characters, waiting = 0, 0, [root]
    while waiting:
        node = waiting.pop()
        count += 1
        if isinstance(node, nodes.TemplateData):
            characters += len(node.data)
        if not isinstance(node, _BODIES):
            waiting.extend(node.iter_child_nodes())
        elif isinstance(node, nodes.For):
            waiting.extend(node.iter_child_nodes(exclude=("body",)))
    return count // NODES_A_UNIT + characters // CHARACTERS


def _filter(name: str, value: nodes.Node, *arguments: nodes.Node) -> nodes.Filter:
    return nodes.Filter(value, name, list(arguments), [], None, None, lineno=1)


class _Metering(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filter("=steps", node.iter)
        if node.test is not None:  # is asked for each value
            node.test = nodes.And(nodes.Not(_filter("=pay", nodes.Const(1 + _cost(node.test)))), node.test)
        return node

    def visit_Add(self, node: nodes.Add) -> nodes.Expr:
        """A chain of sums in one call: texts are joined once."""
        terms: list[nodes.Expr] = []
        left: nodes.Expr = node
        while isinstance(left, nodes.Add):
            terms.append(left.right)
            left = left.left
        values = [self.visit(term) for term in (left, *reversed(terms))]
        return _filter("=add", nodes.Tuple(values, "load"))

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        """Constant text is as good as text between the tags: paid for with the body."""
        self.generic_visit(node)
        node.nodes = [
            nodes.TemplateData(one.value) if isinstance(one, nodes.Const) and isinstance(one.value, str) else one
            for one in node.nodes
        ]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _filter("=text", nodes.Tuple(node.nodes, "load"))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        ends = (node.arg.start, node.arg.stop, node.arg.step)
        return _filter("=slice", node.node, *(nodes.Const(None) if end is None else end for end in ends))

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        self.generic_visit(node)
        if not isinstance(node.key, nodes.Const):
            node.key = _filter("=key", node.key)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Expr:
        self.generic_visit(node)
        if all(_is_cheap(node, operand) for operand in node.ops):
            return node
        pairs, left = [], node.expr
        for operand in node.ops:
            pairs.append(_filter(f"={operand.op}", left, operand.expr))
            left = operand.expr
        if len(pairs) > 1 and not all(isinstance(one.expr, nodes.Name | nodes.Const) for one in node.ops[:-1]):
            raise ChatTemplateError("the chat template compares more than two computed values in one comparison")
        whole: nodes.Expr = pairs[0]
        for pair in pairs[1:]:
            whole = nodes.And(whole, pair)
        return whole


def _is_cheap(node: nodes.Compare, operand: nodes.Operand) -> bool:
    """Whether a comparison takes no longer than what stands in the source."""
    if operand.op in ("in", "notin"):
        right = operand.expr
        return isinstance(right, nodes.List | nodes.Tuple) and all(isinstance(one, nodes.Const) for one in right.items)
    return len(node.ops) == 1 and (isinstance(node.expr, nodes.Const) or isinstance(operand.expr, nodes.Const))


def _steps(values: Any) -> Any:
    return fuel().steps(values)


def _added(values: tuple[Any, ...]) -> Any:
    characters = 0
    for value in values:
        if type(value) is not str:
            break
        characters += len(value)
    else:
        pay_text(characters)
        return "".join(values)
    total = values[0]
    for value in values[1:]:
        costs.binop(fuel(), "+", total, value)
        total = total + value
    return total


def _joined(values: tuple[Any, ...]) -> str:
    burning, characters = fuel(), 0
    for value in values:
        if isinstance(value, str):
            characters += len(value)
        else:
            burning.deep(value)
    burning.text(characters)
    return "".join(map(str, values))


def _slice(value: Any, start: Any, stop: Any, step: Any) -> Any:
    part = slice(start, stop, step)
    if hasattr(value, "__len__") and not isinstance(value, range):
        made = len(range(*part.indices(len(value))))
        fuel().text(made) if isinstance(value, str) else fuel().use(1 + made // 8)
    return value[part]


def _key(value: Any) -> Any:
    if isinstance(value, tuple):
        fuel().deep(value)
    return value


def _comparison(operator: str) -> Callable[[Any, Any], Any]:
    compare: Any = TESTS[_OPERATORS[operator]]

    def run(left: Any, right: Any) -> Any:
        if type(left) is not int or type(right) is not int:
            costs.compare(fuel(), left, right)
        return compare(left, right)

    return run


def _contains(sought: Any, where: Any) -> bool:
    if type(sought) is str and type(where) is str and len(where) < SHORT:
        pay(1)
    else:
        costs.contains(fuel(), sought, where)
    return sought in where


def metering_filters() -> dict[str, Callable[..., Any]]:
    """What the tree calls, by name."""
    return {
        "=pay": pay,
        "=steps": _steps,
        "=add": _added,
        "=text": _joined,
        "=slice": _slice,
        "=key": _key,
        "=in": _contains,
        "=notin": lambda sought, where: not _contains(sought, where),
        **{f"={operator}": _comparison(operator) for operator in _OPERATORS},
    }
