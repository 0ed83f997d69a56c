"""The verbs at the prompt: parse, call the public function, print. Imports torch only inside a verb."""

from frostline.cli.main import main

__all__ = ["main"]
