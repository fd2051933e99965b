"""``stage=view``: serves the page of a run to this machine, until Ctrl-C."""

import errno

from avatar_gs.core.errors import UserError
from avatar_gs.core.runs import PAGE, RunFolder
from avatar_gs.pages.serve import ADDRESS, folder_server
from avatar_gs.settings import Settings


def run(settings: Settings) -> None:
    """Print the page's address, and serve the run's folder.

    Raises:
        UserError: if the run has no page, or the port is taken.
    """
    folder = RunFolder(settings.folder).path
    page = next((name for name in (PAGE, "avatar.html") if (folder / name).is_file()), None)
    if page is None:
        raise UserError(f"{folder} has no page yet: give stage=export first")
    try:
        server = folder_server(folder, settings.view.port)
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise UserError(
            f"view.port={settings.view.port} {reason}: give another, or view.port=0 for any free one"
        ) from error
    print(f"{folder} is at http://{ADDRESS}:{server.server_port}/{page} (Ctrl-C ends it)", flush=True)
    with server:
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            print("ended")
