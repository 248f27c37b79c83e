#!/usr/bin/python3
"""What the README's threat model says of other users of the machine, of sandboxed applications and of hostile pods, tried
for real where no other test does: a process of another uid, one that looks like an application of Flatpak, containers that
try to get out."""
import hashlib
import os
import shutil
import subprocess
import unittest
import urllib.parse

import cri
import running


def first_subordinate(file):
    name = subprocess.run(['id', '-un'], capture_output=True, text=True, check=True).stdout.strip()
    with open(file, encoding='utf-8') as f:
        for line in f:
            owner, first, _ = line.strip().split(':')
            if owner in (name, str(os.getuid())):
                return int(first)
    raise unittest.SkipTest(f'no range in {file}')


def as_another_user(program, *words):
    """What a program of Python prints as another uid of this machine: one of the subordinate range, which this user has, but
    whose processes the kernel takes for another user's.  It has the function code(call)."""
    uid, gid = first_subordinate('/etc/subuid') + 7, first_subordinate('/etc/subgid') + 7
    return cri.run('unshare', f'--map-users={uid},0,1', f'--map-groups={gid},0,1', '--setuid', '0', '--setgid', '0',
                   '/usr/bin/python3', '-c', CODE + program, *words, cwd='/')


CODE = """
import errno, http.client, os, signal, socket, sys

def code(call):
    # The name of the errno that a call fails with, or what it returns.
    try:
        return str(call())
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e))
"""

# Of the sockets, directories and process named.
DOORS = """
sockets, directories, process = sys.argv[1].split(), sys.argv[2].split(), int(sys.argv[3])
for path in sockets:
    print('connect to', path, code(lambda: socket.socket(socket.AF_UNIX).connect(path)))
for path in directories + [f'/proc/{process}/root']:
    print('list', path, code(lambda: os.listdir(path)))
for name in ('environ', 'mem', 'maps'):
    print('read', name, code(lambda: open(f'/proc/{process}/{name}', 'rb').read(1)))
print('signal', process, code(lambda: os.kill(process, signal.SIGTERM)))
"""

# The statuses that a streaming server answers paths with: host, port, path...
GUESSES = """
def guess(path):
    connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=20)
    connection.request('POST', path, headers={'Connection': 'Upgrade', 'Upgrade': 'SPDY/3.1',
                                              'X-Stream-Protocol-Version': 'v4.channel.k8s.io'})
    return connection.getresponse().status

print(*(code(lambda: guess(path)) for path in sys.argv[3:]))
"""


class AnotherUser(running.Running):
    def test_finds_every_door_closed(self):
        bus = os.environ.get('DBUS_SESSION_BUS_ADDRESS', '').removeprefix('unix:path=').split(',')[0]
        inner = cri.run('pgrep', '-u', str(os.getuid()), '-x', 'userpodd-inner').split()[0]
        directories = (cri.RUNTIME_DIR, os.path.dirname(cri.SOCKET), cri.DATA_DIR)
        tried = as_another_user(DOORS, f'{cri.SOCKET} {bus}', ' '.join(directories), inner).split('\n')
        self.assertEqual(len(tried), 10, tried)
        for line in tried:
            self.assertRegex(line, ' (EACCES|EPERM)$')

    def test_gets_nothing_from_the_streaming_port(self):
        pod = self.pod()
        container = self.container(pod, 'echo ready; trap "exit 0" TERM; while :; do usleep 5000; done')
        self.wait_for_line('ready')
        url = urllib.parse.urlsplit(self.cri.Exec(container_id=container, cmd=['id'], stdout=True).url)
        token = url.path.rsplit('/', 1)[1]

        wrong = token[:-1] + ('A' if token[-1] != 'A' else 'B')
        paths = ('/', '/exec/', f'/exec/{token[:-1]}', f'/exec/{wrong}', f'/attach/{token}')
        self.assertEqual(as_another_user(GUESSES, url.hostname, str(url.port), *paths), ' '.join(['404'] * len(paths)))
        # The URL's owner has it still: only a request that names it whole uses it up.
        self.assertEqual(as_another_user(GUESSES, url.hostname, str(url.port), url.path), '101')


class SandboxedApplication(running.Running):
    """/.flatpak-info in the root directory of a process is how Flatpak marks its applications, and how portals know them."""

    def setUp(self):
        super().setUp()
        self.root = f'{self.logs}/root'
        for name in ('usr', 'run', 'proc', 'etc', 'tmp'):
            os.makedirs(f'{self.root}/{name}')
        for name in ('bin', 'lib', 'lib64', 'sbin'):
            os.symlink(f'usr/{name}', f'{self.root}/{name}')

    def busctl(self, *words):
        binds = ''.join(f'mount --rbind /{name} {self.root}/{name} && ' for name in ('usr', 'run', 'proc', 'etc'))
        return subprocess.run(
            ['unshare', '--map-current-user', '--keep-caps', '--mount', 'sh', '-c', f'{binds} exec chroot {self.root} "$@"', 'sh',
             'busctl', '--user', *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)

    def mark(self):
        with open(f'{self.root}/.flatpak-info', 'w', encoding='utf-8') as f:
            f.write('[Application]\nname=org.example.App\n')

    def test_may_look_and_not_touch(self):
        pod = self.pod()
        container = self.container(pod, 'trap "exit 0" TERM; while :; do usleep 5000; done')
        look = ('get-property', cri.BUS, '/org/userpod1', 'org.userpod1.Manager', 'Version')
        path = {'Pod': f'/org/userpod1/pods/{pod}', 'Container': f'/org/userpod1/containers/{container}', 'Manager': '/org/userpod1'}
        kill = ('call', cri.BUS, path['Container'], 'org.userpod1.Container', 'Kill', 'isa{sv}', '9', 'main', '0')
        touch = [kill,
                 ('call', cri.BUS, path['Container'], 'org.userpod1.Container', 'Stop', 'a{sv}', '0'),
                 ('call', cri.BUS, path['Pod'], 'org.userpod1.Pod', 'Remove', 'a{sv}', '1', 'force-managed', 'b', 'true'),
                 ('call', cri.BUS, path['Manager'], 'org.userpod1.Manager', 'PullImage', 'sa{sv}', running.IMAGE, '0')]
        # The same process without the mark is the user's own: what fails below fails for the mark.
        self.assertEqual(self.busctl(*look).returncode, 0, self.busctl(*look).stderr)
        self.assertNotIn('andbox', self.busctl(*touch[1]).stderr)
        self.mark()
        self.assertEqual(self.busctl(*look).returncode, 0, self.busctl(*look).stderr)
        for words in touch:
            answer = self.busctl(*words)
            self.assertNotEqual(answer.returncode, 0, words)
            self.assertIn('andbox', answer.stderr, words)
        self.assertEqual(self.pod_status(pod).state, cri.api().SANDBOX_READY)


# Each line: what it is called, and a command that must fail.
ATTEMPTS = {
    'mount a file system': 'mount -t tmpfs none /tmp',
    'remount the cgroups': 'mount -o remount,rw /sys/fs/cgroup',
    'leave its cgroup': 'echo $$ > /sys/fs/cgroup/cgroup.procs',
    'make a user namespace': 'unshare -U true',
    'make a mount namespace': 'unshare -m true',
    'make a block device': 'mknod /tmp/sda b 8 0',
    'read the kernel log': 'dmesg',
    'read kernel memory': 'head -c 1 /proc/kcore | grep -q .',
    'press SysRq': 'echo b > /proc/sysrq-trigger',
    'set a kernel variable': 'echo 1 > /proc/sys/kernel/panic',
    'set core_pattern': 'echo "|/tmp/x" > /proc/sys/kernel/core_pattern',
    'set the clock': 'date -s 2001-01-01 && test $(date +%Y) = 2001',
    'rename the machine': 'hostname other',
    'reboot': 'reboot -f',
    'configure its network': 'ip addr add 192.0.2.1/32 dev lo',
    'change its root': 'mkdir -p /tmp/root/old && mount --bind /tmp/root /tmp/root && pivot_root /tmp/root /tmp/root/old',
    'find the sockets of the daemon': 'find /run /tmp /var -name "*.sock" | grep -q .',
    'see processes of others': 'test $(ls -d /proc/[0-9]* | wc -l) -gt 20',
    'raise its limits': 'ulimit -Hn 100000000',
    'be more important than others': 'echo -900 > /proc/self/oom_score_adj',
}


class HostilePod(running.Running):
    def tried(self, script, **fields):
        """Prints "got NAME" for each attempt that succeeds, and "done"."""
        pod = self.pod(**fields.pop('pod_fields', {}))
        lines = ''.join(f'({command}) > /dev/null 2>&1 && echo "got {name}"\n' for name, command in script.items())
        self.container(pod, f'{lines}echo done', linux={'security_context': {
            'seccomp': {'profile_type': 0}, 'masked_paths': ['/proc/kcore', '/proc/sysrq-trigger'],
            'readonly_paths': ['/proc/sys'], **fields}})
        self.wait_for_line('done')
        return [line for line in self.texts() if line.startswith('got ')]

    def test_does_not_get_out(self):
        self.assertEqual(self.tried(ATTEMPTS), [])

    def test_the_attempts_can_succeed(self):
        """Or the test above would show nothing: as root of the node with everything, most of them do."""
        pod = self.pod(linux={'security_context': {'privileged': True}})
        harmless = {k: ATTEMPTS[k] for k in ATTEMPTS if k in (
            'mount a file system', 'leave its cgroup', 'make a user namespace', 'make a mount namespace', 'rename the machine',
            'configure its network', 'change its root')}
        lines = ''.join(f'({command}) > /dev/null 2>&1 && echo "got {name}"\n' for name, command in harmless.items())
        self.container(pod, f'{lines}echo done', linux={'security_context': {'privileged': True}})
        self.wait_for_line('done')
        self.assertEqual([f'got {name}' for name in harmless], [line for line in self.texts() if line.startswith('got ')])

    def test_with_the_nodes_processes_in_sight(self):
        """Sharing the node's PID namespace gives sight, not the files or the memory of processes that have more capabilities."""
        options = {'pid': cri.api().NODE}
        got = self.tried({'see them': 'test $(cat /proc/1/comm) != sh',
                          'enter the root of the first': 'ls /proc/1/root/',
                          'read memory of the first': 'head -c 1 /proc/1/mem',
                          'read the environment of the first': 'head -c 1 /proc/1/environ | grep -q .',
                          'end the first': 'kill -9 1 && sleep 1 && ! test -d /proc/1',
                          'reach descriptors of monitors': 'for p in /proc/[0-9]*; do test "$(cat $p/comm)" = conmon && readlink $p/fd/0 && exit 0; done; false'},
                         namespace_options=options, pod_fields={'linux': {'security_context': {'namespace_options': options}}})
        self.assertEqual(got, ['got see them'])

    def test_the_runtimes_program_stays_as_it_is(self):
        """What enters a container is seen there as a process, and its program as /proc/PID/exe, which must not be written, not
        even when the process has ended: here it is the user's own, who is root of the container."""
        crun = f'{self.logs}/crun'
        shutil.copy(shutil.which('crun'), crun)
        with open(crun, 'rb') as f:
            before = hashlib.sha256(f.read()).hexdigest()
        with running.settings(f'[runtimes.own]\npath = "{crun}"\n'):
            self.connect()
            config = {'metadata': {'name': 'own', 'namespace': 'test', 'uid': self.id()}, 'log_directory': f'{self.logs}/own', 'linux': {}}
            pod = self.cri.RunPodSandbox(config=config, runtime_handler='own').pod_sandbox_id
            self.configs[pod] = config
            container = self.container(pod, 'exec 2> /dev/null; echo ready; trap "exit 0" TERM; while :; do for p in /proc/[2-9]* /proc/1?*; do '
                                       'case $(readlink $p/exe) in *crun*) exec 3< $p/exe && while test -d $p; do :; done; '
                                       'echo seen; (echo broken >> /proc/self/fd/3) 2>/dev/null && echo written;; esac; done; done')
            self.wait_for_line('ready', pod='own')
            for _ in range(40):
                self.assertEqual(self.cri.ExecSync(container_id=container, cmd=['/bin/true'], timeout=20).exit_code, 0)
            self.remove_pods()
            self.configs = {}
        self.connect()
        with open(crun, 'rb') as f:
            self.assertEqual(hashlib.sha256(f.read()).hexdigest(), before)
        self.assertNotIn('written', self.texts(pod='own'))


if __name__ == '__main__':
    running.main()
