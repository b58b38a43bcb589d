"""By what the API knows this machine, where nobody says otherwise."""

import hashlib
import hmac
from pathlib import Path
from typing import Final

from azaion.publishing.errors import PublishingError

#: Made once when the system is installed; see machine-id(5), which asks for it to be shown to nobody as it is.
_MACHINE_ID: Final = Path("/etc/machine-id")


def fingerprint(machine_id: Path = _MACHINE_ID) -> str:
    """The fingerprint of this machine: 64 hexadecimal digits, the same for as long as the system is installed.

    Raises:
        PublishingError: the machine has no id.
    """
    try:
        known = machine_id.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        known = ""
    if not known:
        raise PublishingError(
            f"{machine_id} cannot be read: set AZAION_API_HARDWARE to what the API knows this machine by"
        )
    return hmac.new(known.encode(), b"azaion-training", hashlib.sha256).hexdigest()
