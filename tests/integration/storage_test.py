#!/usr/bin/python3
"""The three storage drivers: what a container sees, restarts and switches under it, the end of fuse-overlayfs, and that
nothing is left."""
import json
import os
import signal
import subprocess
import tempfile
import time

import cri
import running
import unpack_test

DRIVERS = ('overlay', 'fuse-overlayfs', 'copy')
# Needs its root file system all the time; ends at once at its stop signal.
WRITER = 'trap "exit 0" TERM; i=0; while :; do i=$((i+1)); echo $i > /written; cat /written > /dev/null; usleep 5000; done'
SERVICE = 'trap "exit 0" TERM; echo written > /file; echo ready; while :; do usleep 20000; done'


class Storage(running.Running):
    def use(self, driver):
        context = running.storage_driver(driver)
        context.__enter__()
        # After the pods of the test are gone, and before the image is.
        self.addCleanup(self.connect)
        self.addCleanup(context.__exit__, None, None, None)
        self.addCleanup(self.remove_pods)
        self.addCleanup(self.connect)
        self.connect()

    def info(self):
        return json.loads(self.cri.Status(verbose=True).info['config'])

    def condition(self, kind):
        return next(c for c in self.cri.Status().status.conditions if c.type == kind)

    def servers(self, container):
        """Processes of fuse-overlayfs that serve the container; None where it has no cgroup for them."""
        group = cri.systemctl('show', '-P', 'ControlGroup', running.NODE)
        try:
            with open(f'/sys/fs/cgroup{group}/fuse/{container}/cgroup.procs', encoding='utf-8') as f:
                return [int(line) for line in f]
        except FileNotFoundError:
            return None

    def read(self, container, file):
        return self.cri.ExecSync(container_id=container, cmd=['cat', file]).stdout.decode()

    def assert_removed(self, pod, *containers):
        self.cri.RemovePodSandbox(pod_sandbox_id=pod)
        for c in containers:
            self.assertIsNone(self.servers(c))
        # The user reaches into neither: the containers' files are of subordinate ids.
        cri.wait_until(lambda: running.enter('ls', '-A', f'{cri.DATA_DIR}/containers') == '', what='removed files')
        self.assertEqual(running.enter('sh', '-c', f'grep -c {cri.DATA_DIR}/containers /proc/self/mountinfo; true'), '0')

    def test_life(self):
        for driver in DRIVERS:
            with self.subTest(driver), running.storage_driver(driver):
                self.connect()
                self.assertEqual(self.info()['storageDriver'], driver)
                self.assertTrue(self.condition('StorageDriver').status)  # it was asked for
                self.assertEqual(cri.bus_get('/org/userpod1', 'org.userpod1.Manager', 'StorageDriver'), driver)
                pod = self.pod(driver)
                writer = self.container(pod, WRITER, 'writer')
                service = self.container(pod, SERVICE, 'service')
                self.wait_for_line('ready', pod=driver, name='service')
                self.assertEqual(len(self.servers(writer) or []), 1 if driver == 'fuse-overlayfs' else 0)
                before = self.status(writer)
                running.restart_daemon()
                self.connect()
                self.assertEqual(self.status(writer), before)
                self.assertEqual(self.read(service, '/file'), 'written\n')
                self.assertTrue(self.condition('RootFilesystems').status)
                count = cri.wait_until(lambda: int(self.read(writer, '/written') or 0), what='writing')
                cri.wait_until(lambda: int(self.read(writer, '/written') or 0) > count, what='more writing')
                self.assertEqual(self.cri.ExecSync(container_id=writer, cmd=['sh', '-c', 'rm -r /bin/true && mkdir /bin/true']).exit_code, 0)
                self.cri.StopPodSandbox(pod_sandbox_id=pod)
                self.assertEqual((self.status(writer).exit_code, self.status(service).exit_code), (0, 0))
                self.assertIsNone(self.servers(writer))
                # The image is as it was.
                again = self.pod(f'{driver}-again')
                fresh = self.container(again, 'test ! -e /written && test -f /bin/true', 'fresh')
                cri.wait_until(lambda: self.state(fresh) == 'EXITED', what='the exit')
                self.assertEqual(self.status(fresh).exit_code, 0)
                self.cri.RemovePodSandbox(pod_sandbox_id=again)
                self.assert_removed(pod, writer, service)

    def test_switch(self):
        """Each driver's running container, under each other driver: it stays on its own."""
        pod, made = self.pod(), {}
        for driver in DRIVERS:
            with running.storage_driver(driver):
                self.connect()
                made[driver] = self.container(pod, SERVICE, driver)
                for earlier, container in made.items():
                    self.wait_for_line('ready', name=earlier)
                    self.assertEqual(self.read(container, '/file'), 'written\n', f'{earlier} under {driver}')
        self.connect()
        self.assertEqual(self.info()['storageDriver'], 'overlay')
        self.assertEqual({self.state(c) for c in made.values()}, {'RUNNING'})
        # One removed by a daemon with another driver, the rest with the pod.
        self.cri.StopContainer(container_id=made['fuse-overlayfs'], timeout=5)
        self.cri.RemoveContainer(container_id=made['fuse-overlayfs'])
        self.assertIsNone(self.servers(made['fuse-overlayfs']))
        self.assert_removed(pod, *made.values())

    def lose(self, container):
        server, = self.servers(container)
        os.kill(server, signal.SIGKILL)

    def assert_lost(self, container):
        cri.wait_until(lambda: self.state(container) == 'EXITED', what='the exit')
        status = self.status(container)
        self.assertEqual((status.exit_code, status.reason), (137, 'RootFilesystemLost'))
        self.assertIn('fuse-overlayfs', status.message)
        condition = self.condition('RootFilesystems')
        self.assertEqual((condition.status, condition.reason), (False, 'RootFilesystemLost'))
        self.assertIn(container[:12], condition.message)

    def test_fuse_killed(self):
        self.use('fuse-overlayfs')
        pod = self.pod()
        # It needs no file any more, and would not end.
        lost = self.container(pod, 'trap "exit 0" TERM; echo ready; sleep 1000 & wait', 'lost')
        kept = self.container(pod, SERVICE, 'kept')
        self.wait_for_line('ready', name='lost')
        self.lose(lost)
        self.assert_lost(lost)
        self.assertEqual(self.state(kept), 'RUNNING')
        another = self.container(pod, 'true', 'another')
        cri.wait_until(lambda: self.state(another) == 'EXITED', what='the exit')
        self.assertEqual(self.status(another).exit_code, 0)
        running.restart_daemon()
        self.connect()
        self.assert_lost(lost)
        self.cri.RemoveContainer(container_id=lost)
        self.assertTrue(self.condition('RootFilesystems').status)
        # One that had not been started.
        made = self.container(pod, 'true', 'made', start=False)
        self.lose(made)
        self.assert_lost(made)
        self.assert_removed(pod, lost, kept, another, made)

    def test_fuse_hangs(self):
        """A process whose request it has taken cannot be killed: a stop ends the server too."""
        self.use('fuse-overlayfs')
        # With a PID namespace of its own: there the end of the first process waits for all others.
        pod, made = self.pod(linux={'security_context': {'namespace_options': {'pid': 'CONTAINER'}}}), []
        script = 'echo ready; for i in 1 2 3 4; do while :; do cat /bin/busybox > /file$i; done & done; wait'
        # Whether it has taken one when it is stopped is chance.
        while not made or self.status(made[-1]).reason != 'RootFilesystemLost':
            self.assertLess(len(made), 12, 'no request was under way')
            name = f'hung-{len(made)}'
            made.append(self.container(pod, script, name))
            self.wait_for_line('ready', name=name)
            time.sleep(0.1)
            os.kill(*self.servers(made[-1]), signal.SIGSTOP)
            self.cri.StopContainer(container_id=made[-1], timeout=0)
            self.assertEqual(self.state(made[-1]), 'EXITED')
        self.assert_removed(pod, *made)

    def test_fuse_killed_while_nobody_looks(self):
        self.use('fuse-overlayfs')
        pod = self.pod()
        lost = self.container(pod, SERVICE, 'lost')
        done = self.container(pod, 'exit 0', 'done')
        self.wait_for_line('ready', name='lost')
        cri.wait_until(lambda: self.state(done) == 'EXITED', what='the exit')
        cri.systemctl('stop', running.DAEMON, running.SOCKET)
        self.lose(lost)
        self.connect()
        self.assert_lost(lost)
        self.assertEqual(self.status(done).reason, 'Completed')
        self.assert_removed(pod, lost, done)

    def test_killed_in_the_middle(self):
        """Of what each driver does: the next daemon knows nothing of it, and nothing is there."""
        self.addCleanup(cri.systemctl, 'unset-environment', 'USERPOD_KILL_AT')
        for driver, stage in (('fuse-overlayfs', 'fuse.spawned'), ('copy', 'copy.begun')):
            with self.subTest(stage), running.storage_driver(driver):
                self.connect()
                pod = self.pod(driver)
                cri.systemctl('set-environment', f'USERPOD_KILL_AT={stage}')
                running.restart_daemon()
                self.connect()
                config = {'metadata': {'name': 'main'}, 'image': {'image': self.image}, 'command': ['/bin/true'], 'linux': {}}
                self.assertNotEqual(cri.code_of(self.cri.CreateContainer, pod_sandbox_id=pod, sandbox_config=self.configs[pod],
                                                config=config), cri.Code.OK)
                cri.systemctl('unset-environment', 'USERPOD_KILL_AT')
                running.restart_daemon()
                self.connect()
                self.assertEqual(list(self.cri.ListContainers().containers), [])
                self.assert_removed(pod)

    def test_check_config(self):
        with tempfile.TemporaryDirectory() as d:
            os.mkdir(f'{d}/userpod')
            for value, status in (('copy', 0), ('zfs', 78)):
                with open(f'{d}/userpod/userpod.toml', 'w', encoding='utf-8') as f:
                    f.write(f'storage-driver = "{value}"\n')
                got = subprocess.run([f'{running.PREFIX}/bin/userpodd', '--check-config'], env={**os.environ, 'XDG_CONFIG_HOME': d},
                                     capture_output=True, text=True, check=False)
                self.assertEqual(got.returncode, status, got.stderr)
                if status:
                    self.assertIn('userpod.toml:1: storage-driver: "zfs" is not one of "auto", "overlay", "fuse-overlayfs", "copy"', got.stdout + got.stderr)


class Unpacked:
    """The images of unpack_test.py, whose layers hide, replace and link, stored by another driver."""

    def setUp(self):
        context = running.storage_driver(self.driver)
        context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)
        super().setUp()


class UnpackedByFuse(Unpacked, unpack_test.Unpack):
    driver = 'fuse-overlayfs'


class UnpackedByCopy(Unpacked, unpack_test.Unpack):
    driver = 'copy'


if __name__ == '__main__':
    running.main()
