"""Where things lie that tests need."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the checkout
SHARED_CLIPS = ROOT.parent / "shared" / "clips"  # real videos; tests that use them skip where they are absent
