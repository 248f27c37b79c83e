"""kubectl against userpod, through the stand-in of apiserver.py: what tests with it share."""
import fcntl
import glob
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time
import unittest

import cri
import running

PROGRAM = shutil.which('kubectl')
# Some installations have a kubectl of every version beside it.
VERSIONS = sorted(glob.glob(f'{os.path.dirname(os.path.realpath(PROGRAM))}/kubectl.1.*')) if PROGRAM else []
ENTER = (f'{running.PREFIX}/bin/userpodctl', 'enter', '--')


def main():
    if not PROGRAM:
        cri.skip('kubectl is not installed')
    running.main()


def only(*kept):
    """Of a class: these of the tests that it inherits."""
    def choose(of):
        for name in unittest.defaultTestLoader.getTestCaseNames(of):
            if name not in kept:
                setattr(of, name, None)
        return of
    return choose


class Terminal:
    """A command whose controlling terminal we are."""

    def __init__(self, command, env, columns, rows):
        self.master, slave = os.openpty()
        self.resize(columns, rows)
        self.seen = b''

        def adopt():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env, preexec_fn=adopt)
        os.close(slave)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def resize(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))

    def type(self, text):
        os.write(self.master, text.encode())

    def wait_for(self, pattern, timeout=20):
        """Until what is shown matches: the match.  What is shown up to its end is forgotten."""
        end = time.monotonic() + timeout * (4 if cri.SLOW else 1)
        while not (match := re.search(pattern.encode(), self.seen)):
            if not select.select([self.master], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError(f'the terminal never shows {pattern!r}: {self.seen!r}')
            try:
                self.seen += os.read(self.master, 1 << 16)
            except OSError:     # it has ended, and all it wrote is read
                raise AssertionError(f'ended without {pattern!r}: {self.seen!r}') from None
        self.seen = self.seen[match.end():]
        return match

    def end(self, timeout=20):
        """Its exit status."""
        end = time.monotonic() + timeout
        while select.select([self.master], [], [], max(0, end - time.monotonic()))[0]:
            try:
                self.seen += os.read(self.master, 1 << 16)
            except OSError:
                break
        return self.process.wait(timeout=5)


class Kubectl(running.Running):
    """A pod with a container that waits, and kubectl for it."""
    websockets = False      # what the client speaks, as far as it can choose
    tunnel = False          # the stand-in takes port-forward out of its WebSocket
    prefix = ()             # of the commands: in which network

    def setUp(self):
        super().setUp()
        self.home = tempfile.mkdtemp(prefix='userpod-test-kubectl-', dir='/var/tmp')
        self.addCleanup(shutil.rmtree, self.home, ignore_errors=True)
        self.log = f'{self.home}/apiserver.log'
        self.server = self.start_server()
        self.env = {**os.environ, 'HOME': self.home, **{f'KUBECTL_{of}_WEBSOCKETS': str(self.websockets).lower()
                                                        for of in ('REMOTE_COMMAND', 'PORT_FORWARD')}}
        self.sandbox = self.pod()
        self.main = self.container(self.sandbox, 'mkdir /www; trap "exit 0" TERM; echo up; while :; do usleep 20000; done')
        self.wait_for_line('up')

    def start_server(self):
        options = ['--tunnel'] if self.tunnel else []
        with open(self.log, 'w', encoding='utf-8') as log:
            server = subprocess.Popen([*self.prefix, '/usr/bin/python3', f'{cri.ROOT}/tests/integration/apiserver.py', '--socket', cri.SOCKET, *options],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)

        def stop():
            server.stdin.close()
            server.wait(timeout=20)
            server.stdout.close()
        self.addCleanup(stop)
        port = server.stdout.readline().decode().strip()
        self.assertTrue(port, self.logged())
        return f'http://127.0.0.1:{port}'

    def logged(self):
        with open(self.log, encoding='utf-8') as f:
            return f.read()

    def command(self, *words, program=PROGRAM):
        return [*self.prefix, program, '--kubeconfig=/dev/null', f'--server={self.server}', '--namespace=test', *words]

    def kubectl(self, *words, status=0, timeout=60, program=PROGRAM, **more):
        """A command that ends by itself, with this exit status; its standard output and error as bytes."""
        more = {'stdin': subprocess.DEVNULL, **more} if 'input' not in more else more
        done = subprocess.run(self.command(*words, program=program), env=self.env, capture_output=True, timeout=timeout, **more)
        self.assertEqual(done.returncode, status, f'{words}: {done.stdout[-2000:]} {done.stderr[-2000:]}\n{self.logged()[-4000:]}')
        return done

    def start(self, *words, program=PROGRAM, **more):
        """A command that is running: its Popen, killed at the end of the test."""
        process = subprocess.Popen(self.command(*words, program=program), env=self.env, **more)

        def stop():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        self.addCleanup(stop)
        return process

    def terminal(self, *words, columns=91, rows=37):
        terminal = Terminal(self.command(*words), self.env, columns, rows)
        self.addCleanup(terminal.close)
        return terminal

    def streams(self):
        """What the runtime has accepted: ['exec by v5.channel.k8s.io in websocket']."""
        return re.findall(r'stream: (.*)', self.logged())

    def check_protocol(self, stream):
        """All streams so far were like this; there was no fall-back from another protocol."""
        self.assertEqual(set(self.streams()), {stream})
        self.assertNotIn('refused', self.logged())

    def kill(self, process):
        """kubectl itself, without a chance to say good-bye."""
        victim = process.pid
        if self.prefix:     # userpodctl enter waits for it
            victim, = map(int, cri.run('ps', '-o', 'pid=', '--ppid', str(victim)).split())
        os.kill(victim, signal.SIGKILL)
        process.wait(timeout=10)

    def inside(self, script, container=None, status=0):
        """What a script in the container prints."""
        done = self.cri.ExecSync(container_id=container or self.main, cmd=['/bin/sh', '-c', script], timeout=20)
        self.assertEqual(done.exit_code, status, done)
        return done.stdout.decode().strip()

    def processes(self, pattern):
        """The command lines in the container that contain this, but of the one that looks."""
        script = 'for f in /proc/[0-9]*/cmdline; do tr "\\0" " " < $f; echo; done 2>/dev/null'
        return [line.strip() for line in self.inside(script).split('\n') if pattern in line and 'cmdline' not in line]
