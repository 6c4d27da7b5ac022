"""Servers work in a box that `jailbuild add NAME` alone has made, in a network of its own, each as its own user."""

from __future__ import annotations

import os
from pathlib import Path

from tests.programs.boxes import Server, fill, need, place_of, said, serving


def owner(server: Server, name: str) -> set[int]:
    """Return the ids of those who run processes of that name in the server's network."""
    here = os.stat(f"/proc/{server.pid}/ns/net").st_ino
    found = set()
    for process in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{process}/ns/net").st_ino == here and Path(
                f"/proc/{process}/comm"
            ).read_text().strip().startswith(name[:15]):
                found.add(os.stat(f"/proc/{process}").st_uid)
        except OSError:  # it has ended
            continue
    return found


def uid(box: Path, name: str) -> int:
    """Return the id that a name has in the box."""
    lines = (box / "etc/passwd").read_text().splitlines()
    return next(int(line.split(":")[2]) for line in lines if line.startswith(f"{name}:"))


def test_nginx_serves_a_page(place: Path) -> None:
    """With the settings of the host's package, and workers that are www-data."""
    need("nginx")
    box = fill(place / "box", "nginx")
    (box / "var/www/html/page.txt").write_text("a page")
    with serving(box, "nginx", "-g", "daemon off;") as server:
        server.wait_for(80)
        assert server.page("http://127.0.0.1/page.txt") == "a page"
        assert owner(server, "nginx") == {0, uid(box, "www-data")}


def test_apache_serves_a_page(place: Path) -> None:
    """With the settings of the host's package, and workers that are www-data."""
    need("apache2")
    box = fill(place / "box", "apache2")
    (box / "var/www/html/page.txt").write_text("a page")
    with serving(box, "apache2ctl", "-D", "FOREGROUND") as server:
        server.wait_for(80)
        assert server.page("http://127.0.0.1/page.txt") == "a page"
        assert owner(server, "apache2") == {0, uid(box, "www-data")}


PHP_SITE = """
server {
    listen 127.0.0.1:8080;
    root /var/www/html;
    location ~ \\.php$ { include snippets/fastcgi-php.conf; fastcgi_pass unix:SOCKET; }
}
"""


def test_php_fpm_works_behind_nginx(place: Path) -> None:
    """Both from one box; nginx reaches the pool by its socket in /run/php."""
    need("nginx", "/usr/sbin/php-fpm[0-9]*")
    box = fill(place / "box", "nginx", "php-fpm")
    name = os.path.basename(place_of("/usr/sbin/php-fpm[0-9]*") or "")
    version = name.removeprefix("php-fpm")
    (box / "etc/nginx/sites-enabled/php").write_text(PHP_SITE.replace("SOCKET", f"/run/php/php{version}-fpm.sock"))
    (box / "var/www/html/page.php").write_text(
        '<?php session_start(); date_default_timezone_set("Europe/Paris");'
        ' echo posix_getpwuid(posix_getuid())["name"], " ", date("H", 0);'
    )
    with serving(box, name, "--nodaemonize"), serving(box, "nginx", "-g", "daemon off;") as server:
        server.wait_for(8080)
        server.wait_for_file(box / f"run/php/php{version}-fpm.sock")
        assert server.page("http://127.0.0.1:8080/page.php") == "www-data 01"


def test_mariadb_answers_after_it_was_initialised_inside(place: Path) -> None:
    """mariadb-install-db, mariadbd as mysql, the client by its socket."""
    need("mariadbd", "mariadb-install-db", "mariadb")
    box = fill(place / "box", "mariadbd")
    said(box, "mariadb-install-db", "--user=mysql", "--skip-test-db")
    with serving(box, "mariadbd", "--user=mysql") as server:
        server.wait_for(3306)
        assert server.said(box, "mariadb", "-N", "-e", "select 6 * 7, upper('é')") == "42\tÉ\n"
        assert owner(server, "mariadbd") == {uid(box, "mysql")}


def test_postgres_answers_after_it_was_initialised_inside(place: Path) -> None:
    """As its own user: initdb, the server, a query by psql, a file copied in."""
    need("/usr/lib/postgresql/*/bin/postgres")
    box = fill(place / "box", "postgres")
    programs = "/" + os.path.relpath(sorted((box / "usr/lib/postgresql").glob("*/bin"))[-1], box)
    data = "/var/lib/postgresql/data"
    options = ("--user", "postgres")
    said(box, f"{programs}/initdb", "-A", "trust", "-E", "UTF8", "--locale", "C.UTF-8", data, options=options)
    psql = (f"{programs}/psql", "-U", "postgres", "-At", "-c")
    with serving(box, f"{programs}/postgres", "-D", data, options=options) as server:
        server.wait_for(5432)
        found = server.said(
            box,
            *psql,
            "select 6 * 7, upper('é'), to_tsvector('english', 'jails')",
            "-c",
            "select timezone('Europe/Paris', 'epoch'::timestamptz)",
        )
        assert found == "42|É|'jail':1\n1970-01-01 01:00:00\n"
        server.said(box, *psql, "create table t (n int)", "-c", "\\copy t from /dev/null")
        assert owner(server, "postgres") == {uid(box, "postgres")}


def test_redis_answers(place: Path) -> None:
    """As redis, its data kept in /var/lib/redis."""
    need("redis-server", "redis-cli")
    box = fill(place / "box", "redis-server")
    with serving(box, "redis-server", "--dir", "/var/lib/redis", options=("--user", "redis")) as server:
        server.wait_for(6379)
        assert server.said(box, "redis-cli", "set", "key", "value") == "OK\n"
        assert server.said(box, "redis-cli", "save") == "OK\n"
        assert server.said(box, "redis-cli", "get", "key") == "value\n"
    assert (box / "var/lib/redis/dump.rdb").stat().st_uid == uid(box, "redis")


ZONE = """$TTL 60
@ IN SOA ns hostmaster 1 60 60 60 60
@ IN NS ns
ns IN A 127.0.0.1
www IN A 192.0.2.1
"""


def test_named_answers_dig(place: Path) -> None:
    """With the settings of the host's package and a zone of ours; it becomes bind."""
    need("named", "dig")
    box = fill(place / "server", "named")
    asking = fill(place / "client", "dig")
    (box / "var/cache/bind/db.example").write_text(ZONE)
    with (box / "etc/bind/named.conf.local").open("a") as settings:
        settings.write('\nzone "example.org" { type master; file "/var/cache/bind/db.example"; };\n')
    with serving(box, "named", "-g", "-u", "bind") as server:
        server.wait_for(53)
        assert server.said(asking, "dig", "+short", "@127.0.0.1", "www.example.org") == "192.0.2.1\n"
        assert owner(server, "named") == {uid(box, "bind")}
