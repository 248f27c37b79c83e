#!/usr/bin/python3
"""The session bus is killed, hangs, is not there, or has another owner of the name: the CRI goes on without waiting, the
condition SessionBus tells the truth, and when the bus is back it shows what there is.

On a bus of the test's own, which the daemon is given for its time: the user's real one carries his whole session."""
import contextlib
import os
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

import cri
import running

ROOT = '/org/userpod1'
DROP_IN = f'{cri.RUNTIME_DIR}/systemd/user/{running.DAEMON}.d'
CONFIG = '''<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=%s</listen><policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>'''


def message(serial, member, signature=b'', body=b''):
    """A method call to the bus itself, as it goes over the wire."""
    def field(code, kind, value):
        text = struct.pack('<I', len(value)) if kind != b'g' else bytes([len(value)])
        entry = bytes([code, 1]) + kind + b'\0' + text + value + b'\0'
        return entry + bytes(-len(entry) % 8)
    fields = field(1, b'o', b'/org/freedesktop/DBus') + field(6, b's', b'org.freedesktop.DBus') + \
        field(2, b's', b'org.freedesktop.DBus') + field(3, b's', member) + (field(8, b'g', signature) if signature else b'')
    unpadded = len(fields.rstrip(b'\0')) + 1
    head = struct.pack('<cBBBIII', b'l', 1, 0, 1, len(body), serial, unpadded) + fields[:unpadded]
    return head + bytes(-len(head) % 8) + body


class LostBus(running.Running):
    def setUp(self):
        super().setUp()
        self.directory = tempfile.mkdtemp(prefix='userpod-test-bus-', dir=cri.RUNTIME_DIR)
        self.addCleanup(lambda: subprocess.run(['rm', '-rf', self.directory], check=True))
        self.socket = f'{self.directory}/bus'
        with open(f'{self.directory}/config', 'w', encoding='utf-8') as f:
            f.write(CONFIG % self.socket)
        self.bus = None
        self.addCleanup(self.kill_bus)

    @contextlib.contextmanager
    def daemon_on_it(self):
        """The daemon, and this process's busctl, on the bus of the test."""
        before = os.environ.get('DBUS_SESSION_BUS_ADDRESS')
        os.environ['DBUS_SESSION_BUS_ADDRESS'] = f'unix:path={self.socket}'
        os.makedirs(DROP_IN, exist_ok=True)
        with open(f'{DROP_IN}/bus.conf', 'w', encoding='utf-8') as f:
            f.write(f'[Service]\nEnvironment=DBUS_SESSION_BUS_ADDRESS=unix:path={self.socket}\n')
        self.restart_daemon()
        try:
            yield
        finally:
            os.unlink(f'{DROP_IN}/bus.conf')
            os.rmdir(DROP_IN)
            os.environ.pop('DBUS_SESSION_BUS_ADDRESS')
            if before:
                os.environ['DBUS_SESSION_BUS_ADDRESS'] = before
            self.restart_daemon()

    def restart_daemon(self):
        cri.systemctl('daemon-reload')
        cri.systemctl('restart', running.DAEMON)
        self.connect()

    def start_bus(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)
        self.bus = subprocess.Popen(['dbus-daemon', f'--config-file={self.directory}/config', '--nofork', '--print-address'],
                                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.assertIn(self.socket.encode(), self.bus.stdout.readline())
        self.bus.stdout.close()

    def kill_bus(self):
        if self.bus:
            self.bus.kill()
            self.bus.wait()
            self.bus = None

    def condition(self):
        found = [c for c in self.cri.Status(deadline=5).status.conditions if c.type == 'SessionBus']
        return (found[0].status, found[0].reason) if found else None

    def wait_for_condition(self, *wanted, timeout=10):
        cri.wait_until(lambda: self.condition() == wanted, timeout=timeout, what=f'SessionBus is {wanted}')

    def work(self, pod, name):
        """Every kind of call, each within its usual time; returns the container, which runs on."""
        times = {}

        def timed(what, call, **fields):
            begin = time.monotonic()
            got = call(**fields)
            times[what] = time.monotonic() - begin
            return got
        made = timed('create and start', lambda: self.container(pod, 'trap "exit 0" TERM; echo up; while :; do usleep 20000; done', name))
        done = timed('create and start', lambda: self.container(pod, 'trap "exit 3" TERM; echo up; while :; do usleep 20000; done', f'{name}-stopped'))
        self.wait_for_line('up', name=f'{name}-stopped')
        self.assertEqual(timed('exec', self.cri.ExecSync, container_id=made, cmd=['echo', 'here']).stdout, b'here\n')
        timed('list', self.cri.ListContainers)
        timed('stop', self.cri.StopContainer, container_id=done, timeout=10)
        other = timed('run', lambda: self.pod(f'{name}-gone'))
        timed('remove', self.cri.RemovePodSandbox, pod_sandbox_id=other)
        for what, took in times.items():
            self.assertLess(took, 15 if cri.SANITIZE else 5, what)
        return made

    def shown(self):
        """The bus shows what the CRI lists."""
        def same():
            objects = cri.bus_objects()
            on_bus = {path.rsplit('/', 1)[1]: list(found.values())[0]['State'] for path, found in objects.items()
                      if path.startswith((f'{ROOT}/pods/', f'{ROOT}/containers/'))
                      for found in [{k: v for k, v in found.items() if k.startswith('org.userpod1.')}]}
            listed = {c.id: cri.api().ContainerState.Name(c.state).removeprefix('CONTAINER_').lower()
                      for c in self.cri.ListContainers().containers}
            listed |= {p.id: cri.api().PodSandboxState.Name(p.state).removeprefix('SANDBOX_').lower()
                       for p in self.cri.ListPodSandbox().items}
            self.assertTrue(listed)
            self.last = on_bus, listed
            return on_bus == listed
        try:
            cri.wait_until(same, timeout=5, what='the bus shows what the CRI lists')
        except TimeoutError:
            self.assertEqual(*self.last)

    def signals(self, container):
        """An exit is told on the bus."""
        monitor = subprocess.Popen(['busctl', '--user', 'monitor', f'--match=type=signal,path={ROOT}/containers/{container}'],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        watchdog = threading.Timer(60, monitor.kill)
        watchdog.start()
        try:
            self.assertIn('Monitoring', monitor.stderr.readline())
            self.cri.StopContainer(container_id=container, timeout=10)
            seen = ''
            for line in monitor.stdout:
                seen += line
                if 'Member=Exited' in line:
                    return
            self.fail(f'no signal Exited in: {seen}')
        finally:
            watchdog.cancel()
            monitor.kill()
            monitor.communicate()

    def waiting(self, pod, name):
        """A container that is deaf to its stop, and a call that waits for the end of that stop."""
        deaf = self.container(pod, 'trap "" TERM; echo up; while :; do usleep 20000; done', name)
        self.wait_for_line('up', name=name)
        _, job = cri.bus_call(f'{ROOT}/containers/{deaf}', 'org.userpod1.Container', 'Stop', 'a{sv}', 2,
                              'force-managed', 'b', 'true', 'timeout-usec', 't', 6_000_000)
        call = subprocess.Popen(['busctl', '--user', 'call', '--timeout=60', cri.BUS, job, 'org.userpod1.Job', 'Wait', 'a{sv}', '0'],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(0.5)
        self.assertIsNone(call.poll())
        return deaf, call

    def failed(self, call, *words):
        """At once and with a word."""
        begin = time.monotonic()
        _, told = call.communicate(timeout=30)
        self.assertLess(time.monotonic() - begin, 15 if cri.SANITIZE else 4)
        self.assertNotEqual(call.returncode, 0)
        self.assertTrue(any(word in told for word in words), told)

    def test_killed(self):
        self.start_bus()
        with self.daemon_on_it():
            self.wait_for_condition(True, '')
            pod = self.pod()
            deaf, call = self.waiting(pod, 'deaf')
            self.shown()
            pid = running.main_pid()
            self.kill_bus()
            self.failed(call, 'onnection', 'closed', 'reset')
            self.wait_for_condition(False, 'NoSessionBus', timeout=2)
            made = self.work(pod, 'without')
            # The job goes on.
            cri.wait_until(lambda: self.state(deaf) == 'EXITED', timeout=15, what='the end of a container')
            self.start_bus()
            self.wait_for_condition(True, '', timeout=35)
            self.shown()
            self.signals(made)
            self.assertEqual(running.main_pid(), pid)

    def test_daemon_ends_under_a_call(self):
        self.start_bus()
        with self.daemon_on_it():
            self.wait_for_condition(True, '')
            pod = self.pod()
            deaf, call = self.waiting(pod, 'deaf')
            cri.systemctl('restart', running.DAEMON)
            self.failed(call, 'the daemon ended')
            self.connect()
            self.assertEqual(self.state(deaf), 'RUNNING')  # a stop is its daemon's
            self.wait_for_condition(True, '')
            _, call = self.waiting(pod, 'other')
            os.kill(running.main_pid(), signal.SIGKILL)
            self.failed(call, 'disconnected', 'not receive a reply', 'NoReply')

    def test_hangs(self):
        """Stopped by a signal: connected, and silent."""
        self.start_bus()
        with self.daemon_on_it():
            self.wait_for_condition(True, '')
            pod = self.pod()
            self.bus.send_signal(signal.SIGSTOP)
            made = [self.work(pod, f'hung{i}') for i in range(3)]
            self.bus.send_signal(signal.SIGCONT)
            self.wait_for_condition(True, '', timeout=35)
            self.shown()
            self.signals(made[0])
            # And the daemon ends and starts while it hangs.
            self.bus.send_signal(signal.SIGSTOP)
            begin = time.monotonic()
            self.restart_daemon()
            self.assertLess(time.monotonic() - begin, 20)
            self.work(pod, 'after')
            pid = running.main_pid()
            if cri.LONG:
                time.sleep(45)  # longer than the watchdog waits
                self.assertEqual(running.main_pid(), pid)
            self.bus.send_signal(signal.SIGCONT)
            self.wait_for_condition(True, '', timeout=35)
            self.shown()

    def test_absent(self):
        with self.daemon_on_it():
            self.wait_for_condition(False, 'NoSessionBus')
            made = self.work(self.pod(), 'alone')
            self.start_bus()
            self.wait_for_condition(True, '', timeout=35)
            self.shown()
            self.signals(made)

    def test_name_taken(self):
        self.start_bus()
        with socket.socket(socket.AF_UNIX) as owner:
            owner.connect(self.socket)
            owner.sendall(b'\0AUTH EXTERNAL ' + str(os.getuid()).encode().hex().encode() + b'\r\n')
            self.assertTrue(owner.recv(4096).startswith(b'OK'))
            name = cri.BUS.encode()
            body = struct.pack('<I', len(name)) + name + b'\0'
            body += bytes(-len(body) % 4) + struct.pack('<I', 0)
            owner.sendall(b'BEGIN\r\n' + message(1, b'Hello') + message(2, b'RequestName', b'su', body))
            got = b''
            while b'NameAcquired' not in got or name not in got:
                got += owner.recv(4096)
            with self.daemon_on_it():
                self.wait_for_condition(False, 'NameTaken')
                made = self.work(self.pod(), 'nameless')
                owner.close()
                self.wait_for_condition(True, '', timeout=35)
                self.shown()
                self.signals(made)


if __name__ == '__main__':
    running.main()
