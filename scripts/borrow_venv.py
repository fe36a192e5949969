"""Make a virtual environment that sees the packages of the Python that runs this, and takes more beside them.

    python scripts/borrow_venv.py FOLDER

Unlike --system-site-packages it works from inside another virtual environment, and it needs neither network nor
ensurepip: pip is borrowed too.
"""

import sys
import sysconfig
import venv
from pathlib import Path


def borrow_venv(folder: Path) -> Path:
    """Make the environment; return its Python."""
    venv.EnvBuilder(symlinks=True, with_pip=False, clear=True).create(folder)
    python = folder / "bin" / "python"
    lent = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    # Debian's default scheme is not that of a virtual environment.
    own = Path(sysconfig.get_path("purelib", "posix_prefix", vars={"base": str(folder)}))
    # Plain paths, not site.addsitedir: the lender's own .pth files, such as its editable installs, stay out.
    (own / "borrowed.pth").write_text("".join(f"{path}\n" for path in lent))
    return python


if __name__ == "__main__":
    print(borrow_venv(Path(sys.argv[1]).absolute()))
