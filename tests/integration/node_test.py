#!/usr/bin/python3
"""The node: its namespaces, paths, uplink, cgroups, how a command enters it, how it stops."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import time
import unittest

PREFIX = os.environ.get('USERPOD_PREFIX', '')
CTL = f'{PREFIX}/bin/userpodctl'
RUNTIME = os.environ.get('XDG_RUNTIME_DIR', '') + '/userpod'
NODE = 'userpod-node.service'


def systemctl(*arguments, check=True):
    done = subprocess.run(['systemctl', '--user', *arguments], capture_output=True, text=True, timeout=60)
    if check and done.returncode != 0:
        raise AssertionError(f'systemctl {arguments}: {done.stderr}')
    return done.stdout.strip()


def enter(*command, check=True, **options):
    done = subprocess.run([CTL, 'enter', '--', *command], capture_output=True, text=True, timeout=30, **options)
    if check and done.returncode != 0:
        raise AssertionError(f'enter {command}: status {done.returncode}, {done.stderr}')
    return done


def state(name='holder'):
    with open(f'{RUNTIME}/node/{name}.json') as f:
        return json.load(f)


def cgroup():
    return '/sys/fs/cgroup' + state()['cgroup']


def processes(leaf):
    with open(f'{cgroup()}/{leaf}/cgroup.procs') as f:
        return [int(line) for line in f]


def wait_for(what, condition, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f'not within {seconds} s: {what}')


class Running(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        systemctl('start', NODE)

    def test_every_namespace_is_its_own(self):
        pid = state()['pid']
        for name in ('user', 'mnt', 'pid', 'ipc', 'uts', 'net', 'cgroup'):
            inside = os.readlink(f'/proc/{pid}/ns/{name}')
            self.assertNotEqual(inside, os.readlink(f'/proc/self/ns/{name}'), name)
            self.assertEqual(enter('readlink', f'/proc/self/ns/{name}').stdout.strip(), inside, name)

    def test_maps_all_subordinate_ids(self):
        lines = [list(map(int, line.split())) for line in enter('cat', '/proc/self/uid_map').stdout.splitlines()]
        self.assertEqual(lines[0], [0, os.getuid(), 1])
        self.assertEqual(lines[1][0], 1)
        self.assertGreaterEqual(sum(line[2] for line in lines[1:]), 65536)
        self.assertEqual(enter('id', '-u').stdout.strip(), '0')

    def test_sees_its_own_processes_only(self):
        numbers = [int(name) for name in enter('ls', '/proc').stdout.split() if name.isdigit()]
        self.assertIn(1, numbers)
        self.assertNotIn(os.getpid(), numbers)
        self.assertLess(len(numbers), 40)

    def test_fixed_paths_are_writable_and_kept(self):
        for path in ('/var/lib/kubelet', '/var/lib/cni', '/var/log/pods', '/var/log/containers', '/etc/cni/net.d',
                     '/opt/cni/bin', '/run', '/run/userpod'):
            enter('sh', '-c', f'echo x > {path}/.test-node && rm {path}/.test-node')
        self.assertEqual(enter('stat', '-c', '%a', '/run/userpod').stdout.strip(), '700')

    def test_host_files_stay_live(self):
        for path in ('/etc/passwd', '/etc/os-release', '/etc/localtime', '/etc/mtab'):
            if os.path.exists(path):
                enter('test', '-r', path)
        name = f'{RUNTIME}/test-node-live'
        with open(name, 'w') as f:
            f.write('seen')
        self.addCleanup(os.unlink, name)
        self.assertEqual(enter('cat', name).stdout, 'seen')
        enter('test', '-S', os.environ['XDG_RUNTIME_DIR'] + '/systemd/private')

    def test_cgroup_is_the_root_inside(self):
        self.assertRegex(enter('cat', '/proc/self/cgroup').stdout, r'(?m)^0::/enter/[0-9a-f]+$')
        self.assertEqual(processes('.'), [])
        self.assertEqual(len(processes('init')), 2)
        with open(f'{cgroup()}/cgroup.controllers') as have, open(f'{cgroup()}/cgroup.subtree_control') as on:
            self.assertEqual(sorted(have.read().split()), sorted(on.read().split()))
        own = enter('cat', '/proc/self/cgroup').stdout.strip().rpartition('0::')[2]
        self.assertFalse(os.path.exists(cgroup() + own))

    def test_network(self):
        self.assertRegex(enter('ip', '-4', 'address', 'show', 'tap0').stdout, r'mtu 65520.*(?s:.*)inet 10\.0\.2\.100/24')
        self.assertIn('default via 10.0.2.2', enter('ip', 'route').stdout)
        self.assertEqual(enter('cat', '/proc/sys/net/ipv4/ip_forward').stdout.strip(), '1')
        with open('/etc/resolv.conf') as f:
            servers = re.findall(r'(?m)^\s*nameserver\s+(\S+)', f.read())
        inside = re.findall(r'(?m)^\s*nameserver\s+(\S+)', enter('cat', '/etc/resolv.conf').stdout)
        # The host's own first, for the daemon; of three that glibc reads the last is the uplink's.
        self.assertEqual(inside, servers[:2] + ['10.0.2.3'])
        self.assertRegex(enter('cat', '/etc/hosts').stdout, r'(?m)^10\.0\.2\.2\thost\.userpod\.internal$')

    def test_uplink_comes_back(self):
        if state('uplink')['state'] != 'up':
            self.skipTest('no uplink here: ' + state('uplink')['reason'])
        before = processes('uplink')
        self.assertTrue(before)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        after = wait_for('a new uplink', lambda: [p for p in processes('uplink') if p not in before])
        wait_for('the uplink is up', lambda: state('uplink')['state'] == 'up')
        self.assertIn('default via 10.0.2.2', enter('ip', 'route').stdout)
        self.assertNotEqual(before, after)

    def test_kernel_log_can_be_opened(self):
        if os.path.exists('/dev/kmsg'):
            enter('sh', '-c', 'exec < /dev/kmsg')


class Enter(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        systemctl('start', NODE)

    def popen(self, *command):
        child = subprocess.Popen([CTL, 'enter', '--', *command], stdout=subprocess.PIPE, text=True)
        self.addCleanup(child.stdout.close)
        return child

    def test_exit_status(self):
        self.assertEqual(enter('sh', '-c', 'exit 7', check=False).returncode, 7)
        self.assertEqual(enter('sh', '-c', 'kill -9 $$', check=False).returncode, 137)
        self.assertEqual(enter('/no/such', check=False).returncode, 127)

    def test_environment_directory_and_standard_input(self):
        got = enter('sh', '-c', 'cat; echo "$CONTAINER_RUNTIME_ENDPOINT $USER"; pwd', input='in\n', cwd='/usr/lib').stdout
        self.assertEqual(got, f'in\nunix://{RUNTIME}/cri.sock root\n/usr/lib\n')

    def test_arguments_arrive_as_they_are(self):
        words = ['a b', '$HOME', '%n', "it's", '', '"', '\\', '*']
        self.assertEqual(enter('printf', '%s\\n', *words).stdout, ''.join(w + '\n' for w in words))

    def test_signals_are_passed_on(self):
        child = self.popen('sh', '-c', 'trap "echo got; exit 3" TERM; echo ready; while :; do sleep 0.05; done')
        self.assertEqual(child.stdout.readline(), 'ready\n')
        child.terminate()
        self.assertEqual(child.communicate(timeout=10)[0], 'got\n')
        self.assertEqual(child.returncode, 3)

    def test_a_killed_caller_leaves_nothing(self):
        child = self.popen('sh', '-c', 'echo ready; exec sleep 4711')
        self.assertEqual(child.stdout.readline(), 'ready\n')
        child.kill()
        child.wait()
        wait_for('the command is gone', lambda: '4711' not in enter('ps', '-eo', 'args').stdout)

    def terminal(self, *command):
        pid, master = pty.fork()
        if pid == 0:
            os.execv(CTL, [CTL, 'enter', '--', *command])
        self.addCleanup(os.close, master)
        return pid, master

    def read_until(self, master, text, seconds=10):
        got = b''
        end = time.monotonic() + seconds
        while text.encode() not in got:
            left = end - time.monotonic()
            if left <= 0 or not select.select([master], [], [], left)[0]:
                raise AssertionError(f'no {text!r} in {got!r}')
            try:
                got += os.read(master, 4096)
            except OSError:
                raise AssertionError(f'no {text!r} in {got!r}') from None
        return got.decode()

    def test_terminal_size_and_interrupt(self):
        pid, master = self.terminal('sh', '-c', 'stty size; trap "echo interrupted; exit 9" INT; echo ready; while :; do sleep 0.05; done')
        self.read_until(master, 'ready')
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack('HHHH', 33, 99, 0, 0))
        os.write(master, b'\x03')
        self.read_until(master, 'interrupted')
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 9)

    def test_terminal_job_control(self):
        pid, master = self.terminal('bash', '--norc', '-i')
        os.write(master, b'PS1=; echo sl""eeping; sleep 60\n')
        self.read_until(master, 'sleeping')
        time.sleep(0.3)
        os.write(master, b'\x1a')
        self.read_until(master, 'Stopped')
        os.write(master, b'fg\n')
        time.sleep(0.3)
        os.write(master, b'\x03')
        time.sleep(0.3)
        os.write(master, b'echo status=$?; exit 4\n')
        self.read_until(master, 'status=130')
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 4)


class Stop(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # The other tests find the units as they were.
        cls.addClassCleanup(systemctl, 'start', NODE, *(['userpod.socket'] if systemctl('is-active', 'userpod.socket', check=False) == 'active' else []))

    def test_nothing_is_left(self):
        systemctl('start', NODE)
        group = cgroup()
        with subprocess.Popen([CTL, 'enter', '--', 'sh', '-c', 'echo ready; exec sleep 4712'], stdout=subprocess.PIPE, text=True) as child:
            self.assertEqual(child.stdout.readline(), 'ready\n')
            systemctl('stop', NODE)
            self.assertEqual(child.wait(timeout=10), 137)
        self.assertEqual(systemctl('show', '-P', 'Result', NODE), 'success')
        self.assertFalse(os.path.exists(group))
        self.assertFalse(os.path.exists(f'{RUNTIME}/node/holder.json'))
        with open('/proc/self/mountinfo') as f:
            self.assertNotIn('/run/userpod', f.read())
        missing = enter('true', check=False)
        self.assertNotEqual(missing.returncode, 0)
        self.assertIn('systemctl --user start userpod-node', missing.stderr)

    def test_containers_get_their_signal_and_grace(self):
        """From the live store alone: here with records of two plain processes, and no daemon."""
        systemctl('stop', 'userpod.socket', 'userpod.service', check=False)
        systemctl('start', NODE)
        database, home = f'{RUNTIME}/live.db', os.environ['HOME']
        if os.path.exists(database):
            os.rename(database, database + '.kept')
            self.addCleanup(os.rename, database + '.kept', database)
        done = f'{home}/.test-node-done'
        self.addCleanup(lambda: os.path.exists(done) and os.unlink(done))
        scripts = {'polite': f'trap "sleep 0.5; echo wrote > {done}; exit 0" USR1; echo $$; while :; do sleep 0.05; done',
                   'deaf': 'trap "" TERM; echo $$; while :; do sleep 0.05; done'}
        store = sqlite3.connect(database)
        self.addCleanup(os.unlink, database)
        store.execute('CREATE TABLE containers (id TEXT, name TEXT, pid INT, pid_start INT, stop_signal INT, grace_ms INT, running INT)')
        for name, script in scripts.items():
            child = subprocess.Popen([CTL, 'enter', '--', 'sh', '-c', script], stdout=subprocess.PIPE, text=True)
            self.addCleanup(child.stdout.close)
            self.addCleanup(child.wait)
            pid = int(child.stdout.readline())
            start = int(enter('cat', f'/proc/{pid}/stat').stdout.rpartition(')')[2].split()[19])
            number = signal.SIGUSR1 if name == 'polite' else signal.SIGTERM
            store.execute('INSERT INTO containers VALUES (?, ?, ?, ?, ?, ?, 1)', (name, name, pid, start, int(number), 1500))
        store.execute("INSERT INTO containers VALUES ('old', 'old', 1, 1, 9, 60000, 1)")  # a recycled number: left alone
        store.commit()
        store.close()
        begin = time.monotonic()
        systemctl('stop', NODE)
        took = time.monotonic() - begin
        self.assertTrue(1.4 < took < 8, took)
        with open(done) as f:
            self.assertEqual(f.read(), 'wrote\n')
        self.assertEqual(systemctl('show', '-P', 'Result', NODE), 'success')

    def test_death_of_the_first_process(self):
        """Takes all with it, and another node takes its place."""
        systemctl('start', NODE)
        before = state()
        left = f'{cgroup()}/left'
        os.mkdir(left)
        os.kill(before['pid'], signal.SIGKILL)
        wait_for('another node', lambda: os.path.exists(f'{RUNTIME}/node/holder.json') and state()['instance'] != before['instance'])
        self.assertFalse(os.path.exists(left))
        enter('true')


if __name__ == '__main__':
    if not PREFIX or not os.access(CTL, os.X_OK):
        print('USERPOD_PREFIX names no installed userpodctl')
        sys.exit(77)
    if systemctl('show', '-P', 'LoadState', NODE, check=False) != 'loaded':
        print(f'{NODE} is not installed in this session')
        sys.exit(77)
    unittest.main(verbosity=2)
