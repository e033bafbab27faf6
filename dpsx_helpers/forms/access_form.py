"""Two secret fields for the connection strings of DPS and hub, with which the cells do the operator's work on Azure."""

from functools import partial
from typing import ClassVar

from dpsx_helpers import access, tutorial
from dpsx_helpers.forms.form_fields import ENTER_EMPTIES, Form


class AccessForm(Form):
    """The connection strings of both services. They are held against nothing but their form: cells act."""

    _ASKED: ClassVar = {
        "dps": ("Connection string of the provisioning service", "provisioningserviceowner"),
        "hub": ("Connection string of the IoT hub", "iothubowner"),
    }

    def __init__(self) -> None:
        self._fields = {
            owner: self._secret_field(label, partial(self._taken, owner), self._where(owner, policy))
            for owner, (label, policy) in self._ASKED.items()
        }
        intro = "With both, the cells do in your subscription what you would do in the portal."
        super().__init__("Access for the operator (optional)", *self._fields.values(), intro=intro)
        self._try(self._outcome)

    def _where(self, owner: str, policy: str) -> str:
        service = "provisioning service" if owner == "dps" else "IoT hub"
        return f"In the portal: your {service}, Shared access policies, {policy}. {ENTER_EMPTIES}"

    def _taken(self, owner: str, secret: tutorial.Secret) -> None:
        def take() -> str:
            good = access.check_connection_string(secret, owner)
            tutorial.enter(access.CONNECTION_STRINGS[owner], good)
            return f"Taken, for {access.host_name(good)}; it is kept in this kernel's memory only."

        self._fields[owner].judge(take)
        self._try(self._outcome)

    def _outcome(self) -> str:
        known = [owner for owner in self._ASKED if access.connection_string(owner)]
        if len(known) == len(self._ASKED):
            return "✔ Both are known in this kernel. Run the cells below."
        if not known:
            return "Without them, the portal's part stays yours, and the cells ask what you see there."
        missing = next(label for owner, (label, _) in self._ASKED.items() if owner not in known)
        return f"{missing} is still missing."
