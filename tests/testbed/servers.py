"""Servers of tests: programs started in sessions of their own, their port and pid in a directory."""
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time


def program(name, package):
    found = shutil.which(name, path='/usr/sbin:/usr/bin:/sbin:/bin')
    if not found:
        sys.exit(f'{name} is not installed (package {package}): run units/install-deps test')
    return found


def registry_program():
    found = next((p for p in ('/usr/bin/docker-registry', '/usr/bin/registry') if os.path.exists(p)), None)
    if not found:
        sys.exit('docker-registry is not installed: run units/install-deps test')
    return found


def write(directory, name, value):
    with open(f'{directory}/{name}', 'w') as f:
        f.write(f'{value}\n')


def port_of(directory, name):
    with open(f'{directory}/{name}port') as f:
        return int(f.read())


def alive(directory, name):
    """The pid of a server that start() has started, if it is still that one."""
    try:
        with open(f'{directory}/{name}pid') as f:
            pid = int(f.read())
        os.kill(pid, 0)
        with open(f'/proc/{pid}/cmdline') as f:
            text = f.read()
        return pid if any(word in text for word in ('registry', 'nginx', 'connect_proxy')) else None
    except (OSError, ValueError):
        return None


def free_ports(names):
    """Different ones, for each name."""
    with contextlib.ExitStack() as stack:
        ports = {}
        for name in names:
            s = stack.enter_context(socket.socket())
            s.bind(('127.0.0.1', 0))
            ports[name] = s.getsockname()[1]
        return ports


def free_port():
    return free_ports(['one'])['one']


def start(directory, name, argv, port):
    """Waits until it listens."""
    with open(f'{directory}/{name}log', 'ab') as log:
        p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    for _ in range(1500):
        if p.poll() is not None:
            with open(f'{directory}/{name}log') as f:
                sys.exit(f'{argv[0]} ended:\n{f.read()[-2000:]}')
        with socket.socket() as s:
            if s.connect_ex(('127.0.0.1', port)) == 0:
                break
        time.sleep(0.02)
    else:
        p.kill()
        sys.exit(f'{argv[0]} does not listen on port {port}')
    write(directory, f'{name}port', port)
    write(directory, f'{name}pid', p.pid)


def stop(directory, name):
    pid = alive(directory, name)
    if pid:
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            if not alive(directory, name):
                break
            time.sleep(0.02)
        else:
            os.kill(pid, signal.SIGKILL)
    for what in ('pid', 'port'):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f'{directory}/{name}{what}')
