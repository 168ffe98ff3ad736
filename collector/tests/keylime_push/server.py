"""Runs Keylime's own registrar or verifier; all that they are configured with is in the environment."""

import importlib
import sys
import types

# Imported for signed policies, which are not used here.
sys.modules.setdefault("gpg", types.ModuleType("gpg"))
importlib.import_module("keylime.cmd." + sys.argv[1]).main()
