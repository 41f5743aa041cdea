"""Result bundles: the folder that an experiment leaves, complete or ready to be gone on with.

A file that is missing, damaged, of another run or cannot be written raises `InputError` with its path.
"""

from malade_ref.bundle.environment import describe_environment
from malade_ref.bundle.folder import Bundle
from malade_ref.bundle.manifest import verify

__all__ = ["Bundle", "describe_environment", "verify"]
