#!/usr/bin/python3
"""The configuration: what is printed and checked, what a reload takes over and what it leaves, and what the journal gets."""
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import unittest

import cri
import running

Code = cri.Code
DROP_INS = f'{running.CONFIG_DIR}/userpod.toml.d'
FILE = f'{DROP_INS}/99-config.toml'
UNIT_DROP_IN = f'{cri.RUNTIME_DIR}/systemd/user/{running.DAEMON}.d'
JOURNAL = '/run/systemd/journal'
# A journal that reads only when it is told: a line on its standard input, answered by what has come as JSON.
SLOW_JOURNAL = '''
import json, os, socket, sys
path = '/run/systemd/journal/socket'
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(path)
s.setblocking(False)
print('ready', flush=True)
for line in sys.stdin:
    got = []
    try:
        while True:
            got.append(s.recv(1 << 20).decode(errors='replace'))
    except BlockingIOError:
        pass
    print(json.dumps(got), flush=True)
'''


def userpodd(*args, home=None):
    env = {**os.environ, 'XDG_CONFIG_HOME': home} if home else None
    return subprocess.run([f'{running.PREFIX}/bin/userpodd', *args], env=env, capture_output=True, text=True, check=False)


def journal(*match, since):
    """The daemon's entries from then on."""
    text = cri.run('journalctl', '--user', '-o', 'json', f'--since=@{since:.6f}', *match, check=False)
    return [json.loads(line) for line in text.split('\n') if line.startswith('{')]


def property_of(name):
    return cri.systemctl('show', '-P', name, running.DAEMON)


def inner_pid():
    """The daemon proper: the main process's child."""
    pid = running.main_pid()
    with open(f'/proc/{pid}/task/{pid}/children', encoding='ascii') as f:
        return int(f.read().split()[0])


def processor_time(pid):
    """Of all its threads, in seconds."""
    with open(f'/proc/{pid}/stat', encoding='ascii') as f:
        fields = f.read().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


class Printed(unittest.TestCase):
    """Without a daemon."""

    def setUp(self):
        self.home = tempfile.mkdtemp(prefix='userpod-test-config-', dir='/var/tmp')
        self.addCleanup(subprocess.run, ['rm', '-rf', self.home], check=True)
        os.mkdir(f'{self.home}/userpod')
        self.file = f'{self.home}/userpod/userpod.toml'

    def write(self, text, file=None):
        with open(file or self.file, 'w', encoding='utf-8') as f:
            f.write(text)

    def test_what_is_printed_is_a_file_that_says_the_same(self):
        self.write('pids-limit = 77\n\nhooks-dir = ["/some where/ü"]\n[runtimes.other]\npath = "/opt/other"\n')
        first = userpodd('--print-config', home=self.home)
        self.assertEqual((first.returncode, first.stderr), (0, ''))
        self.assertIn(f'# Set by {self.file}:1\npids-limit = 77\n', first.stdout)
        self.assertIn('# Default: 0\n', first.stdout)
        settings = tomllib.loads(first.stdout)
        self.assertEqual(settings['hooks-dir'], ['/some where/ü'])
        self.assertEqual(settings['runtimes'], {'crun': {'path': ''}, 'other': {'path': '/opt/other'}})
        self.write(first.stdout)
        second = userpodd('--print-config', home=self.home)
        self.assertEqual(tomllib.loads(second.stdout), settings)
        self.assertEqual(userpodd('--check-config', home=self.home).stdout.count('/opt/other does not exist'), 1)

    def test_defaults_and_json(self):
        self.write('pids-limit = 77\n')
        self.assertEqual(tomllib.loads(userpodd('--print-config', '--default', home=self.home).stdout)['pids-limit'], 0)
        printed = json.loads(userpodd('--print-config', '--json', home=self.home).stdout)
        self.assertEqual((printed['pids-limit']['value'], printed['pids-limit']['default'], printed['pids-limit']['line']), (77, 0, 1))
        self.assertEqual(set(printed), set(tomllib.loads(userpodd('--print-config', home=self.home).stdout)))

    def test_check(self):
        self.assertEqual(userpodd('--check-config', home=self.home).stdout, 'The configuration is valid.\n')
        self.write('log-levle = "info"\nsubnet = "10.88.3.7/16"\nconmon = "/nowhere"\n')
        os.mkdir(f'{self.file}.d')
        self.write('x = [', f'{self.file}.d/10-a.toml')
        self.write('x', f'{self.file}.d/20-b.conf')
        got = userpodd('--check-config', home=self.home)
        print(got.stdout)
        self.assertEqual(got.returncode, 78)
        lines = got.stdout.splitlines()
        self.assertEqual(len(lines), 5)
        for start in (f'{self.file}:1: log-levle: is not a known key; did you mean log-level?', f'{self.file}:2: subnet: ',
                      f'{self.file}:3: conmon: /nowhere does not exist; ', f'{self.file}.d/10-a.toml:1:',
                      f'{self.file}.d/20-b.conf: warning: is not read'):
            self.assertEqual(len([line for line in lines if line.startswith(start)]), 1, start)
        self.assertNotIn('\033', got.stdout)
        problems = json.loads(userpodd('--check-config', '--json', home=self.home).stdout)
        self.assertEqual([p['key'] for p in problems if p['file'] == self.file], ['log-levle', 'subnet', 'conmon'])

    def test_needs_no_session(self):
        got = subprocess.run([f'{running.PREFIX}/bin/userpodd', '--check-config'], env={'HOME': self.home}, capture_output=True, text=True, check=False)
        self.assertEqual(got.returncode, 0, got.stderr)

    def test_one_spelling(self):
        for args in (['--config-check'], ['--check-config', 'more'], ['--reload', '--json'], ['--version', '--default']):
            self.assertEqual(userpodd(*args).returncode, 64, args)
        self.assertEqual(userpodd('--reload').returncode, 64)


class Configured(running.Running):
    """With the daemon; what a test says is taken away after it."""

    def setUp(self):
        super().setUp()
        self.since = time.time()
        self.addCleanup(self.clean)

    def clean(self):
        cri.systemctl('unset-environment', 'USERPOD_HANG_AT')
        for file in (FILE, f'{UNIT_DROP_IN}/test.conf'):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)
        cri.systemctl('daemon-reload')
        running.restart_daemon()
        self.connect()

    def configure(self, text):
        os.makedirs(DROP_INS, exist_ok=True)
        with open(FILE, 'w', encoding='utf-8') as f:
            f.write(text)

    def reload(self, text, check=True):
        self.configure(text)
        return subprocess.run(['systemctl', '--user', 'reload', running.DAEMON], capture_output=True, text=True, check=check)

    def journal(self, *match):
        return journal(*match, since=self.since)

    def entry(self, *match):
        """The first entry with these fields, once it is there."""
        return cri.wait_until(lambda: self.journal(*match), timeout=10, what=f'{match} in the journal')[0]

    def condition(self):
        return next((c for c in self.cri.Status().status.conditions if c.type == 'Configuration'), None)

    def shown(self):
        return json.loads(self.cri.Status(verbose=True).info['config'])


class Reload(Configured):
    def test_what_can_change_counts_when_the_reload_returns(self):
        daemon = running.main_pid()
        pod = self.pod()
        self.assertFalse(self.cri.ImageStatus(image={'image': self.image}).image.pinned)
        self.reload(f'pids-limit = 123\nnofile = "512:1024"\npinned-images = ["{running.IMAGE}"]\nlog-level = "debug"\n')
        self.assertTrue(self.cri.ImageStatus(image={'image': self.image}).image.pinned)
        self.assertEqual([i.pinned for i in self.cri.ListImages().images if i.id == self.image], [True])
        self.container(pod, 'ulimit -Sn; ulimit -Hn; sleep 1000')
        cri.wait_until(lambda: len(self.texts()) == 2, what='the limits')
        self.assertEqual(self.texts(), ['512', '1024'])
        limits = running.enter('sh', '-c', 'cat /sys/fs/cgroup/pods/*/*/pids.max 2>/dev/null || :')
        if limits:
            self.assertIn('123', limits.split())
        self.assertTrue(self.journal('PRIORITY=7', '_PID=' + str(inner_pid())) or self.entry('USERPOD_STAGE=container.mounted'))
        self.reload('')
        self.assertFalse(self.cri.ImageStatus(image={'image': self.image}).image.pinned)
        self.assertEqual(running.main_pid(), daemon)
        self.assertEqual(property_of('ActiveState'), 'active')

    def test_what_cannot_change_is_named(self):
        before = self.shown()['subnet']
        self.reload('subnet = "10.99.0.0/16"\nuplink = "none"\npids-limit = 5\n')
        self.assertEqual(self.shown()['subnet'], before)
        self.assertEqual(self.shown()['pidsLimit'], 5)
        told = self.entry('CONFIG_WAITING=uplink, subnet')
        self.assertEqual(told['PRIORITY'], '5')
        for words in ('pids-limit = 5 (was 0)', f'subnet = "10.99.0.0/16" (was "{before}")', 'uplink = "none" (was "auto")',
                      'systemctl --user restart userpod-node.service userpod.service'):
            self.assertIn(words, told['MESSAGE'])
        self.reload('subnet = "10.99.0.0/16"\n')
        self.assertIn('not before `systemctl --user restart userpod.service`: subnet', self.entry('CONFIG_WAITING=subnet')['MESSAGE'])

    def test_a_wrong_file_changes_nothing(self):
        self.reload('pids-limit = 5\n')
        self.assertIsNone(self.condition())
        got = self.reload('pids-limit = 6\nlog-levle = "debug"\nsubnet = 7\n', check=False)
        self.assertNotEqual(got.returncode, 0)
        self.assertEqual(property_of('ActiveState'), 'active')
        self.assertEqual(self.shown()['pidsLimit'], 5)
        condition = self.condition()
        self.assertFalse(condition.status)
        self.assertEqual(condition.reason, 'ConfigInvalid')
        self.assertIn(f'{FILE}:2: log-levle: is not a known key; did you mean log-level?', condition.message)
        cri.wait_until(lambda: f'{FILE}:2: log-levle' in property_of('StatusText'), what='the status text')
        wrong = self.entry('CONFIG_KEY=subnet')
        self.assertEqual((wrong['CONFIG_FILE'], wrong['CONFIG_LINE'], wrong['PRIORITY'], wrong['USERPOD_ERROR']), (FILE, '3', '3', 'ConfigInvalid'))
        self.reload('pids-limit = 6\n')
        cri.wait_until(lambda: self.condition().status, what='the condition')
        self.assertEqual(self.shown()['pidsLimit'], 6)
        cri.wait_until(lambda: property_of('StatusText').startswith('Serving the CRI'), what='the status text')

    def test_many_at_once(self):
        for limit in range(10, 20):
            self.configure(f'pids-limit = {limit}\n')
            os.kill(running.main_pid(), signal.SIGHUP)
        self.reload('pids-limit = 30\n')
        self.assertEqual(self.shown()['pidsLimit'], 30)

    def test_operations_that_keep_all_workers_busy_do_not_hold_it_up(self):
        hooks = tempfile.mkdtemp(prefix='userpod-test-hooks-', dir='/var/tmp')
        self.addCleanup(subprocess.run, ['rm', '-rf', hooks], check=True)
        with open(f'{hooks}/slow.json', 'w', encoding='utf-8') as f:
            json.dump({'version': '1.0.0', 'hook': {'path': '/bin/sleep', 'args': ['sleep', '17'], 'timeout': 40},
                       'when': {'always': True}, 'stages': ['createRuntime']}, f)
        pod = self.pod()
        self.reload(f'hooks-dir = ["{hooks}"]\n')
        calls = [self.cri.future('CreateContainer', pod_sandbox_id=pod, sandbox_config=self.configs[pod], config={
            'metadata': {'name': f'slow{i}'}, 'image': {'image': self.image}, 'linux': {}}) for i in range(14)]
        cri.wait_until(lambda: int(cri.run('pgrep', '-cxf', 'sleep 17', check=False) or 0) >= 12, what='all workers busy')
        begin = time.monotonic()
        self.reload(f'hooks-dir = ["{hooks}"]\npids-limit = 31\n')
        took = time.monotonic() - begin
        self.assertFalse(any(call.done() for call in calls))
        self.assertLess(took, 10)
        self.assertEqual(self.shown()['pidsLimit'], 31)
        for call in calls:
            call.result()

    def test_over_the_bus(self):
        self.configure('pids-limit = 9\nsubnet = "10.99.0.0/16"\n')
        call = ['busctl', '--user', 'call', 'org.userpod1', '/org/userpod1', 'org.userpod1.Manager', 'Reload', 'a{sv}', '0']
        self.assertEqual(cri.run(*call), 'a{sv} 2 "taken" as 1 "pids-limit" "waiting" as 1 "subnet"')
        self.assertEqual(self.shown()['pidsLimit'], 9)
        self.configure('pids-limit = -9\n')
        got = subprocess.run(call, capture_output=True, text=True, check=False)
        self.assertIn(f'{FILE}:1: pids-limit: -9 is out of range', got.stderr)
        self.assertEqual(self.shown()['pidsLimit'], 9)

    def test_a_start_with_a_wrong_file_is_refused(self):
        self.configure('pids-limit = -1\nnetwork = "host"\n')
        self.assertNotEqual(subprocess.run(['systemctl', '--user', 'restart', running.DAEMON], capture_output=True, check=False).returncode, 0)
        for key, line in (('pids-limit', '1'), ('network', '2')):
            entry = self.entry(f'CONFIG_KEY={key}', 'SYSLOG_IDENTIFIER=userpodd')
            self.assertEqual((entry['CONFIG_LINE'], entry['CONFIG_FILE'], entry['PRIORITY']), (line, FILE, '3'))
        cri.wait_until(lambda: f'{FILE}:1: pids-limit: ' in property_of('StatusText'), what='the status text')
        cri.wait_until(lambda: property_of('ExecMainStatus') == '78', what='its exit status')


class Journal(Configured):
    def test_log_level_without_a_restart(self):
        cri.systemctl('service-log-level', running.DAEMON, 'debug')
        self.assertEqual(cri.systemctl('service-log-level', running.DAEMON), 'debug')
        self.assertEqual(cri.systemctl('service-log-target', running.DAEMON), 'journal')
        self.pod()
        self.entry('USERPOD_STAGE=pod.recorded')
        cri.systemctl('service-log-level', running.DAEMON, 'err')
        self.assertEqual(cri.systemctl('service-log-level', running.DAEMON), 'err')
        self.reload('log-level = "info"\n')
        self.assertEqual(cri.systemctl('service-log-level', running.DAEMON), 'info')

    def test_fields(self):
        pod = self.pod()
        with self.assertRaises(cri.grpc.RpcError):
            self.container(pod, 'x', mounts=[{'host_path': '/proc/1/no/such', 'container_path': '/x'}])
        failed = self.entry('METHOD=CreateContainer')
        self.assertEqual(failed['SYSLOG_IDENTIFIER'], 'userpodd')
        self.assertTrue(failed['USERPOD_ERROR'])
        about = self.entry('SYSLOG_IDENTIFIER=userpodd', 'PRIORITY=4', 'USERPOD_ERROR=' + failed['USERPOD_ERROR'])
        self.assertEqual(len(about['CONTAINER_ID']), 64)
        image = self.cri.PullImage(image={'image': f'{cri.REGISTRY}/test/config'}).image_ref
        self.addCleanup(self.cri.RemoveImage, image={'image': image})
        self.assertRegex(self.entry(f'IMAGE={image}')['JOB_ID'], r'^\d+$')

    def test_no_secrets(self):
        secret = 'Ungueltig-' + os.urandom(8).hex()
        self.reload('log-level = "debug"\n')
        for auth in ({'username': 'someone', 'password': secret}, {'identity_token': secret}, {'registry_token': secret}):
            with contextlib.suppress(cri.grpc.RpcError):
                self.cri.PullImage(image={'image': f'{cri.TOKEN_REGISTRY}/test/busybox:1'}, auth=auth)
        self.entry('METHOD=PullImage')
        self.assertNotIn(secret, cri.run('journalctl', '--user', '-o', 'json', f'--since=@{self.since:.6f}'))

    @contextlib.contextmanager
    def other_journal(self):
        """In the node, in place of the real one, which nobody else misses."""
        running.enter('mount', '-n', '-t', 'tmpfs', 'userpod-test', JOURNAL)
        try:
            yield
        finally:
            running.enter('umount', '-n', '-l', JOURNAL)

    def works(self):
        """A container from its making to its end, in no more time than ever."""
        pod = self.pod(f'pod{time.monotonic_ns()}')
        begin = time.monotonic()
        made = self.container(pod, 'exit 3')
        cri.wait_until(lambda: self.state(made) == 'EXITED', what='the exit')
        self.cri.StopPodSandbox(pod_sandbox_id=pod)
        return time.monotonic() - begin

    def test_a_journal_that_takes_nothing_stops_nothing(self):
        with self.other_journal():
            reader = subprocess.Popen([f'{running.PREFIX}/bin/userpodctl', 'enter', '--', 'python3', '-c', SLOW_JOURNAL],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            try:
                self.assertEqual(reader.stdout.readline(), 'ready\n')

                def read():
                    reader.stdin.write('\n')
                    reader.stdin.flush()
                    return json.loads(reader.stdout.readline())
                self.configure('log-level = "debug"\n')
                running.restart_daemon()
                self.connect()
                read()
                took = [self.works() for _ in range(3)]
                print('with a full journal:', took)
                self.assertLess(max(took), 30 if cri.SLOW else 5)
                before = read()
                self.assertTrue(before)
                self.works()
                after = ''.join(read())
                self.assertRegex(after, r'MESSAGE=[1-9]\d* messages were lost while the journal took none\n')
                self.assertRegex(after, r'LOST_MESSAGES=[1-9]\d*\n')
                self.assertIn('USERPOD_STAGE=', after)
            finally:
                reader.stdin.close()
                reader.wait()
                reader.stdout.close()

    def test_a_journal_that_is_gone_and_comes_back(self):
        with self.other_journal():
            self.configure('log-level = "debug"\n')
            running.restart_daemon()
            self.connect()
            daemon = running.main_pid()
            self.works()
            begin = processor_time(inner_pid())
            self.works()
            used = processor_time(inner_pid()) - begin
            print('processor time without a journal:', used)
            self.assertGreater(begin, 0)
            self.assertLess(used, 5 if cri.SLOW else 0.2)
        self.assertEqual(running.main_pid(), daemon)
        since = time.time()
        self.pod('back')
        cri.wait_until(lambda: journal('USERPOD_STAGE=pod.recorded', since=since), what='the journal with its fields')


class Watchdog(Configured):
    def watch(self, seconds=3):
        os.makedirs(UNIT_DROP_IN, exist_ok=True)
        with open(f'{UNIT_DROP_IN}/test.conf', 'w', encoding='utf-8') as f:
            f.write(f'[Service]\nWatchdogSec={seconds}\nTimeoutAbortSec=2\n')
        cri.systemctl('daemon-reload')
        running.restart_daemon()
        self.connect()

    def restarted(self, daemon, container):
        cri.wait_until(lambda: running.main_pid() not in (0, daemon), timeout=30, what='another daemon')
        self.connect()
        self.assertEqual(self.state(container), 'RUNNING')
        text = cri.run('journalctl', '--user', '-u', running.DAEMON, f'--since=@{self.since:.6f}')
        self.assertIn('Watchdog timeout', text)
        return text

    def test_fed_as_long_as_all_is_well(self):
        self.watch(3)
        daemon = running.main_pid()
        time.sleep(10)  # several watchdogs
        self.assertEqual(running.main_pid(), daemon)

    def test_a_core_that_hangs_is_replaced_under_its_pods(self):
        pod = self.pod()
        container = self.container(pod, 'sleep 1000')
        cri.systemctl('set-environment', 'USERPOD_HANG_AT=container.recorded')
        self.watch()
        daemon = running.main_pid()
        call = self.cri.future('CreateContainer', pod_sandbox_id=pod, sandbox_config=self.configs[pod], config={
            'metadata': {'name': 'never'}, 'image': {'image': self.image}, 'linux': {}})
        cri.systemctl('unset-environment', 'USERPOD_HANG_AT')
        self.assertIn('no answer of: core', self.restarted(daemon, container))
        self.assertNotEqual(call.code(), Code.OK)

    def test_a_daemon_that_is_stopped_is_replaced_under_its_pods(self):
        container = self.container(self.pod(), 'sleep 1000')
        self.watch()
        daemon = running.main_pid()
        running.enter('kill', '-STOP', self.inner())
        self.restarted(daemon, container)

    def inner(self):
        """Its process id in the node."""
        pids = running.enter('pidof', 'userpodd-inner', check=False) or running.enter('pgrep', '-xo', 'userpodd|userpodd-inner')
        return pids.split()[0]


if __name__ == '__main__':
    sys.exit(running.main())
