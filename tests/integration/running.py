"""What tests of running containers share: a pod on the test image, containers of shell scripts, their logs."""
import contextlib
import os
import re
import shutil
import tempfile
import unittest

import cri

IMAGE = f'{cri.REGISTRY}/test/busybox:1'
PREFIX = os.environ.get('USERPOD_PREFIX', '')
CONFIG_DIR = (os.environ.get('XDG_CONFIG_HOME') or os.path.expanduser('~/.config')) + '/userpod'
NODE, DAEMON, SOCKET = 'userpod-node.service', 'userpod.service', 'userpod.socket'
LINE = re.compile(r'(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}\S+) (stdout|stderr) (F|P) (.*)')


def main():
    if not os.path.exists(cri.SOCKET):
        cri.skip(f'no {cri.SOCKET}: userpod.socket is not started')
    if not cri.REGISTRY:
        cri.skip('USERPOD_REGISTRY is not set: no test registry')
    unittest.main(verbosity=2)


def enter(*command, **more):
    return cri.run(f'{PREFIX}/bin/userpodctl', 'enter', '--', *command, **more)


def stored():
    """The names of all that pulls and containers store, as the node's root sees them, once what is in the trash is gone."""
    def names():
        try:
            found = enter('find', cri.DATA_DIR, '-mindepth', '1', '-maxdepth', '3', '-not', '-name', '*.db*', errors='surrogateescape').split('\n')
        except RuntimeError as e:
            if 'No such file or directory' not in str(e):
                raise
            return None                              # a directory went while find was in it
        return None if any('/.trash-' in n or '/.tmp-' in n for n in found) else sorted(found)
    return cri.wait_until(names, timeout=20, what='an empty trash')


def main_pid():
    return int(cri.systemctl('show', '-P', 'MainPID', DAEMON))


@contextlib.contextmanager
def settings(text):
    """A drop-in of userpod.toml says so within: the daemon starts anew with it, and afterwards without it.  Containers run
    on; connections must be made anew (Running.connect)."""
    directory = f'{CONFIG_DIR}/userpod.toml.d'
    made = [d for d in (directory, CONFIG_DIR) if not os.path.isdir(d)]
    os.makedirs(directory, exist_ok=True)
    file = f'{directory}/99-test.toml'
    with open(file, 'w', encoding='utf-8') as f:
        f.write(text)
    try:
        restart_daemon()
        yield
    finally:
        os.unlink(file)
        for d in made:
            os.rmdir(d)
        restart_daemon()


def storage_driver(name):
    """New containers are stored by this driver within."""
    return settings(f'storage-driver = "{name}"\n')


def restart_daemon():
    cri.systemctl('reset-failed', DAEMON, SOCKET, check=False)  # so often is no failure
    cri.systemctl('start', SOCKET)
    cri.systemctl('restart', DAEMON)


class Running(unittest.TestCase):
    """Everything a test makes is taken away after it, the image too; the units run again if it stopped them."""

    def setUp(self):
        self.cri = cri.Cri()
        self.addCleanup(lambda: self.cri.channel.close())
        # Layers that pulls of other tests have left for the next one, which would keep them for a day.
        cri.run(f'{PREFIX}/bin/userpodctl', 'image', 'prune', '--yes')
        self.image = self.cri.PullImage(image={'image': IMAGE}).image_ref
        self.addCleanup(lambda: self.cri.RemoveImage(image={'image': self.image}))
        self.addCleanup(self.remove_pods)
        self.addCleanup(self.connect)
        self.configs = {}
        # The user's own directories are live in the node, under the same path: logs can be read from outside.
        self.logs = tempfile.mkdtemp(prefix='userpod-test-logs-', dir='/var/tmp')
        self.addCleanup(shutil.rmtree, self.logs)

    def connect(self):
        """A new connection, with the units running: for after a stop."""
        self.cri.channel.close()
        cri.systemctl('start', SOCKET)
        self.cri = cri.Cri()
        cri.wait_until(lambda: cri.code_of(self.cri.Version) == cri.Code.OK, timeout=20, what='an answer of the daemon')

    def prune_layers(self):
        """Those that pulls which did not end have left for the next one."""
        cri.run(f'{PREFIX}/bin/userpodctl', 'image', 'prune', '--yes')

    def drop_layers(self):
        """Those too that containers had when the daemon started: it keeps them until it ends."""
        restart_daemon()
        self.connect()
        self.prune_layers()

    def remove_pods(self):
        for pod in self.configs:
            self.cri.RemovePodSandbox(pod_sandbox_id=pod)

    def pod(self, name='pod', **fields):
        config = {'metadata': {'name': name, 'namespace': 'test', 'uid': f'{self.id()}-{name}', 'attempt': 0},
                  'log_directory': f'{self.logs}/{name}', 'linux': {}, **fields}
        pod = self.cri.RunPodSandbox(config=config).pod_sandbox_id
        self.configs[pod] = config
        return pod

    def container(self, pod, script, name='main', start=True, **fields):
        """A container that runs a shell script, started."""
        made = self.cri.CreateContainer(pod_sandbox_id=pod, sandbox_config=self.configs[pod], config={
            'metadata': {'name': name}, 'image': {'image': self.image}, 'command': ['/bin/sh', '-c', script],
            'log_path': f'{name}.log', 'linux': {}, **fields}).container_id
        if start:
            self.cri.StartContainer(container_id=made)
        return made

    def status(self, container):
        return self.cri.ContainerStatus(container_id=container).status

    def state(self, container):
        """Its name without CONTAINER_."""
        return cri.api().ContainerState.Name(self.status(container).state).removeprefix('CONTAINER_')

    def pod_status(self, pod):
        return self.cri.PodSandboxStatus(pod_sandbox_id=pod).status

    def lines(self, pod='pod', name='main'):
        """The container's log as (stream, text); every line must be in the format of the CRI, and whole."""
        try:
            with open(f'{self.logs}/{pod}/{name}.log', encoding='utf-8') as f:
                text = f.read()
        except FileNotFoundError:
            return []
        found = []
        for line in text.split('\n')[:-1]:
            match = LINE.fullmatch(line)
            self.assertTrue(match, f'not a log line: {line!r}')
            self.assertEqual(match[3], 'F', line)
            found.append((match[2], match[4]))
        return found

    def texts(self, pod='pod', name='main'):
        return [text for _, text in self.lines(pod, name)]

    def wait_for_line(self, text, **where):
        return cri.wait_until(lambda: text in self.texts(**where), what=f'the line {text!r} in the log')
