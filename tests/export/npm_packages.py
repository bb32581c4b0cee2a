"""The packages of npm that the page and the tests of the export use."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock


WEB = Path(__file__).parents[2] / "web"


def installed_packages() -> Path:
    """`web/node_modules`, installed if it is not there; the test is skipped where that cannot be."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("needs Node.js: apt-get install nodejs npm")
    modules = WEB / "node_modules"
    with FileLock(WEB / ".install.lock"):
        if not (modules / ".package-lock.json").exists():
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            environment = os.environ | {"ONNXRUNTIME_NODE_INSTALL": "skip"}
            result = subprocess.run(command, cwd=WEB, env=environment, capture_output=True, text=True)
            if result.returncode:
                pytest.skip(f"needs the packages of npm, which cannot be installed: {result.stderr.strip()[-300:]}")
    return modules
