"""The ladder of modules: no circle, root's programs on the standard library only, submit light."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "cronq"


def imports(path):
    """The modules of ours that a module imports when it is imported."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module == "cronq":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cronq."):
            found.add(node.module.split(".")[1])
    return found & {file.stem for file in PACKAGE.glob("*.py")}


def test_no_module_imports_in_a_circle():
    graph = {path.stem: imports(path) for path in PACKAGE.glob("*.py")}
    while True:
        ground = {name for name, needed in graph.items() if not needed & set(graph)}
        if not ground:
            break
        graph = {name: needed for name, needed in graph.items() if name not in ground}
    assert graph == {}


def test_the_launcher_imports_the_standard_library_only():
    code = "import sys; import cronq.launcher; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = set(subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True).stdout.split())
    bare = set(
        subprocess.run(
            [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True
        ).stdout.split()
    )
    assert "cronq" in loaded
    more = loaded - {name.split(".")[0] for name in bare} - set(sys.stdlib_module_names)
    assert {name for name in more if not name.startswith("_sysconfigdata")} <= {"cronq"}  # how Python was built
