"""What no module does: run what it was given, read what runs code, or let chance into a result."""

import ast
from collections.abc import Iterator

import pytest

from tests.test_architecture import MODULES, name_of

RUN_CODE_WHEN_READ = {"pickle", "cPickle", "marshal", "dill", "cloudpickle", "joblib", "shelve", "jsonpickle"}
RUN_A_STRING = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"}
RUN_A_STRING |= {"subprocess.getstatusoutput", "asyncio.create_subprocess_shell"}
MODEL_READERS = {"from_pretrained", "from_config"}
UNORDERED = {"set", "frozenset"}


def name(node: ast.AST) -> str:
    """The dotted name of what is called, as far as it has one."""
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def option(call: ast.Call, wanted: str) -> object:
    """The literal value of an argument given by name, or None."""
    values = [keyword.value for keyword in call.keywords if keyword.arg == wanted]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def runs_code(tree: ast.AST) -> Iterator[str]:
    """Shells, strings as programs, formats that run code when they are read, code that a model brings along."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (f"imports {module}" for module in modules if module.split(".")[0] in RUN_CODE_WHEN_READ)
        if not isinstance(node, ast.Call):
            continue
        called = name(node.func)
        method = called.rpartition(".")[2]
        if called in RUN_A_STRING:
            yield f"calls {called}"
        if any(keyword.arg == "shell" for keyword in node.keywords):
            yield f"gives {called} a shell"
        if called in ("torch.load", "torch.jit.load") and option(node, "weights_only") is not True:
            yield f"calls {called} without weights_only=True"
        if option(node, "allow_pickle") is True or called in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
            yield f"calls {called} on what may hold code"
        if method == "load_checkpoint":
            yield f"calls {called}, which unpickles"
        if method in MODEL_READERS and option(node, "trust_remote_code") is not False:
            yield f"calls {called} without trust_remote_code=False"


def leaves_to_chance(tree: ast.AST) -> Iterator[str]:
    """Sorts that are not stable, hashes that differ from run to run, sets whose order is taken."""
    ordered = {id(inner) for node in ast.walk(tree) if is_call_of(node, "sort") for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.comprehension) and is_set(node.iter) and not is_alone(tree, node):
            yield f"takes the order of the set {ast.unparse(node.iter)}"
        if not isinstance(node, ast.Call):
            continue
        called = name(node.func)
        method = called.rpartition(".")[2] or getattr(node.func, "attr", "")
        if called in ("hash", "id", "random.random", "random.shuffle", "random.choice"):
            yield f"calls {called}"
        if (method == "argsort" or called == "np.sort") and option(node, "kind") != "stable":
            yield f"calls {called} without kind='stable'"
        if method == "sort" and node.args and option(node, "maintain_order") is not True and called != "np.sort":
            yield f"sorts a table by {ast.unparse(node.args[0])} without maintain_order=True"
        if method in ("argpartition", "partition") and called.startswith("np."):
            yield f"calls {called}"
        if method == "group_by" and id(node) not in ordered and option(node, "maintain_order") is not True:
            yield "groups without an order"
        if method in ("list", "tuple", "join", "enumerate", "iter", "next") and any(map(is_set, node.args)):
            yield f"takes the order of a set in {ast.unparse(node)}"


def is_call_of(node: ast.AST, method: str) -> bool:
    """Whether a method of this name is called."""
    return isinstance(node, ast.Call) and getattr(node.func, "attr", "") == method


def is_set(node: ast.AST) -> bool:
    """Whether an expression is a set, as far as that can be seen where it stands."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor):
        return any(is_set(side) or is_call_of(side, "keys") for side in (node.left, node.right))
    return isinstance(node, ast.Set | ast.SetComp) or (isinstance(node, ast.Call) and name(node.func) in UNORDERED)


def is_alone(tree: ast.AST, loop: ast.AST) -> bool:
    """Whether a comprehension over a set makes a set, or is sorted or counted, so that its order is not seen."""
    for node in ast.walk(tree):
        if isinstance(node, ast.SetComp) and loop in node.generators:
            return True
        if isinstance(node, ast.Call) and name(node.func) in {"sorted", "sum", "any", "all", "min", "max", *UNORDERED}:
            inner = node.args[0] if node.args else None
            if isinstance(inner, ast.GeneratorExp | ast.ListComp) and loop in inner.generators:
                return True
    return False


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_runs_code_that_it_was_given(path):
    """In no module of the three rooms."""
    assert list(runs_code(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize("path", [path for path in MODULES if not name_of(path).startswith("flows")], ids=name_of)
def test_no_result_is_left_to_chance(path):
    """In no module that has a part in one."""
    assert list(leaves_to_chance(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "program",
    [
        "import pickle",
        "from cloudpickle import loads",
        "eval('1')",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=1)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "yaml.load(f)",
        "engine.load_checkpoint(f)",
        "AutoModel.from_pretrained(f)",
        "AutoModel.from_pretrained(f, trust_remote_code=config.trust)",
    ],
)
def test_running_code_is_noticed(program):
    """Each of these would be."""
    assert len(list(runs_code(ast.parse(program)))) == 1


@pytest.mark.parametrize(
    ("program", "times"),
    [
        ("np.argsort(x)", 1),
        ("x.argsort()", 1),
        ("np.sort(x, kind='quicksort')", 1),
        ("np.argsort(x, kind='stable')", 0),
        ("names.sort(key=str)", 0),
        ("table.sort('a')", 1),
        ("table.group_by('a').agg(b)", 1),
        ("table.group_by('a').agg(b).sort('a', maintain_order=True)", 0),
        ("hash(x)", 1),
        ("[x for x in {1, 2}]", 1),
        ("sorted(x for x in {1, 2})", 0),
        ("{x for x in set(y)}", 0),
        ("for x in a.keys() | b.keys(): print(x)", 1),
        ("list(set(x))", 1),
        ("', '.join({1, 2})", 1),
    ],
)
def test_chance_is_noticed(program, times):
    """Each of these would be, and what is in order would not."""
    assert len(list(leaves_to_chance(ast.parse(program)))) == times
