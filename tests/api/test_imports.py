from __future__ import annotations

import subprocess
import sys

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "safetensors")


def test_the_web_process_imports_no_model_library():
    program = (
        "import sys, banatie.intake, banatie.api.app, banatie.serve; "
        f"print([name for name in {LIBRARIES} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
