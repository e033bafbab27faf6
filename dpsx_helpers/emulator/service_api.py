"""Which request goes to which handler: the data planes of DPS and hub, and the emulator's own requests."""

from tornado.web import Application

from dpsx_helpers.emulator import control_api, dps_api, hub_api, refusals
from dpsx_helpers.emulator.data_plane import Access, Control, Handler
from dpsx_helpers.emulator.refusals import Answer, Refused
from dpsx_helpers.emulator.services import Services

_OF_DPS = ("/enrollment", "/registrations", "/certificates")


def application(services: Services, access: Access, control: Control) -> Application:
    """The tornado application for one HTTPS listener."""
    common = {"services": services, "access": access, "control": control}
    routes = [*dps_api.ROUTES, *hub_api.ROUTES, *control_api.ROUTES, (r"/.*", NotEmulated, {})]
    return Application(
        # Node's service SDKs end some of their paths with a slash.
        [(f"{pattern}/?", handler, common | more) for pattern, handler, more in routes],
        log_function=lambda _: None,  # each handler says what it does
    )


class NotEmulated(Handler):
    """Every other path: documented by Azure, perhaps, but not here."""

    def authorize(self) -> None:
        """There is nothing behind this path to protect."""

    def prepare(self) -> None:
        of_dps = self.request.path.startswith(_OF_DPS) or "/registrations/" in self.request.path
        self.plane = Answer.DPS_HTTP if of_dps else Answer.HUB_HTTP
        super().prepare()
        feature = f"{self.request.method} {self.request.path[:60]}"
        raise Refused(refusals.DPS_NOT_EMULATED if of_dps else refusals.HUB_NOT_EMULATED, feature=feature)
