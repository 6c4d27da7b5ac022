"""Sockets of the host, with a network of its own."""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.enter.attacks.world import NEEDS, PATIENCE, World, promise

pytestmark = NEEDS


@promise(13)
def test_with_net_none_no_abstract_socket_passes_a_descriptor_in(world: World, how: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening, open(world.secret) as secret:
        listening.bind("\0" + world.token)
        listening.listen()

        def give() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, open(world.secret) as secret:
                        socket.send_fds(connection, [b"x"], [secret.fileno()])

        giver = threading.Thread(target=give, daemon=True)
        giver.start()
        assert secret.read() == world.token
        try:
            world.only_plain(how, "receive", world.token, options=("--net", "none"))
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            giver.join(PATIENCE)


@promise(13)
def test_with_net_none_there_are_no_sockets_that_namespaces_do_not_separate(world: World, how: str) -> None:
    """A vsock reaches the hypervisor, if the kernel has it."""
    try:
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
        has_vsock = True
    except OSError:
        has_vsock = False
    assert ("vsock" in world.attack("plain", "vsock").said) == has_vsock
    assert world.attack(how, "vsock", options=("--net", "none")).said == ""


@promise(13)
def test_with_net_none_the_loopback_is_not_the_host_s(world: World, how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.sendall(world.token.encode())

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        try:
            world.only_plain(how, "loopback", listening.getsockname()[1], options=("--net", "none"))
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            server.join(PATIENCE)
