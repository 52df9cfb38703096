"""Files that services write hold prompts, completions and rewards: other users of the machine cannot read them."""

import os

_OTHERS_AND_GROUP_WRITE = 0o027


def keep_files_private() -> None:
    """Create new files of this process with at most mode 0640, and new folders with 0750; its children inherit this."""
    os.umask(os.umask(0o077) | _OTHERS_AND_GROUP_WRITE)
