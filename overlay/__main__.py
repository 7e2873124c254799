"""``python -m overlay`` is ``rhizome``."""

from overlay.commands.main import main

main()
