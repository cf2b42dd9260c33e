"""Is the port of the web server free? Also a program, for a machine that has nothing but Python."""

import socket
import sys


class PortTaken(Exception):
    """Another program listens on the port, or we may not listen on it."""


def refuse_taken(port: int, *, host: str = "127.0.0.1") -> None:
    """Return if a server could listen there now.

    Raises: PortTaken, with a sentence that says what to do.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # As gunicorn does it, so that a port which was closed a moment ago counts as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()
        except (OSError, OverflowError) as error:
            message = f"Port {port} of {host} cannot be used: {error}. Choose another, as in: make run PORT=8100"
            raise PortTaken(message) from error


if __name__ == "__main__":
    try:
        refuse_taken(int(sys.argv[1]))
    except PortTaken as taken:
        sys.exit(str(taken))
    except (IndexError, ValueError):
        sys.exit("PORT has to be a number, as in: make run PORT=8100")
