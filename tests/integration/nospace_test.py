#!/usr/bin/python3
"""No space left, at each place that userpod writes to: an error that names the path, nothing left, and it works once there is room."""
import os
import sys

import cri
import running

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)) + '/../testbed')
from counting_proxy import CountingProxy  # noqa: E402
from lying_registry import LyingRegistry  # noqa: E402
from registry_images import Layer  # noqa: E402

Code = cri.Code
RUNTIME = f'{cri.RUNTIME_DIR}/userpod'


class NoSpace(running.Running):
    def setUp(self):
        super().setUp()
        self.mounted = []
        self.addCleanup(self.unmount)

    def mount(self, path, size, *options):
        """A small file system of the node's own over path.  The user's host never sees it."""
        running.enter('mount', '-n', '-t', 'tmpfs', '-o', ','.join([f'size={size}', 'mode=0755', *options]), 'userpod-test', path)
        self.mounted.append(path)

    def unmount(self):
        while self.mounted:
            running.enter('umount', '-n', '-l', self.mounted.pop())

    def fill(self, path):
        """To the last page.  Returns what makes room again."""
        running.enter('sh', '-c', f'cat /dev/zero > {path}/filler 2>/dev/null; :')
        return lambda: running.enter('rm', f'{path}/filler')

    def restart(self):
        """The daemon, which opens its places anew."""
        cri.systemctl('restart', running.DAEMON)
        self.connect()

    def refused(self, call, *words, **fields):
        with self.assertRaises(cri.grpc.RpcError) as failed:
            call(**fields)
        text = failed.exception.details()
        print(text)
        self.assertEqual(failed.exception.code(), Code.RESOURCE_EXHAUSTED, text)
        for word in words:
            self.assertIn(word, text)

    def create(self, pod, name):
        return {'pod_sandbox_id': pod, 'sandbox_config': self.configs[pod], 'config': {
            'metadata': {'name': name}, 'image': {'image': self.image}, 'command': ['/bin/echo', 'fine'], 'log_path': f'{name}.log', 'linux': {}}}

    def works(self, pod, name='after'):
        """The next container, from its making to its end."""
        container = self.container(pod, 'echo fine', name)
        cri.wait_until(lambda: self.state(container) == 'EXITED', what='the exit')
        self.assertEqual(self.texts(name=name), ['fine'])
        self.cri.RemoveContainer(container_id=container)

    def data(self, *mounts):
        """Runs the daemon on a data directory of small file systems, and afterwards on the real one."""
        for path, size, *options in mounts:
            running.enter('mkdir', '-p', path)
            self.mount(path, size, *options)
        self.addCleanup(self.restart)
        self.addCleanup(self.unmount)
        self.restart()

    def pull(self, name):
        return self.cri.PullImage(image={'image': f'{cri.REGISTRY}/test/{name}'}).image_ref

    def layers(self):
        return running.enter('ls', f'{cri.DATA_DIR}/layers').split()

    def test_pull(self):
        self.data((cri.DATA_DIR, '60m'))
        self.refused(self.cri.PullImage, 'test/big', 'are free in', cri.DATA_DIR, image={'image': f'{cri.REGISTRY}/test/big'})
        cri.wait_until(lambda: self.layers() == [], what='no layer left')
        self.assertEqual(list(self.cri.ListImages().images), [])

    def test_pull_while_others_fill_the_disk(self):
        """In the midst of layers: no half image, what was begun is taken away, and with room again the pull goes through."""
        self.data((cri.DATA_DIR, '300m'))
        with CountingProxy(cri.REGISTRY) as proxy:
            name = f'{proxy.address}/test/killed'
            proxy.rate = 2 << 20
            pull = self.cri.future('PullImage', image={'image': name})
            cri.wait_until(lambda: proxy.sent > 4 << 20, what='some bytes')
            room = self.fill(cri.DATA_DIR)
            with self.assertRaises(cri.grpc.RpcError) as failed:
                pull.result(timeout=60)
            text = failed.exception.details()
            print(text)
            self.assertEqual(failed.exception.code(), Code.RESOURCE_EXHAUSTED, text)
            self.assertIn('test/killed', text)
            self.assertEqual(list(self.cri.ListImages().images), [])
            cri.wait_until(lambda: self.layers() == [], what='no layer left')
            room()
            proxy.rate = None
            ref = self.cri.PullImage(image={'image': name}).image_ref
            self.cri.RemoveImage(image={'image': ref})

    def test_pull_of_more_files_than_there_are_inodes(self):
        self.data((cri.DATA_DIR, '300m', 'nr_inodes=60'))
        self.refused(self.cri.PullImage, 'test/busybox', '/', 'No space left', image={'image': f'{cri.REGISTRY}/test/busybox:1'})
        cri.wait_until(lambda: self.layers() == [], what='no layer left')
        running.enter('mount', '-n', '-o', 'remount,nr_inodes=10000', cri.DATA_DIR)
        ref = self.pull('busybox:1')
        self.cri.RemoveImage(image={'image': ref})

    def test_database_of_images(self):
        self.data((cri.DATA_DIR, '1m'), (f'{cri.DATA_DIR}/layers', '300m'))
        room = self.fill(cri.DATA_DIR)
        self.refused(self.cri.PullImage, 'test/config', 'images.db', image={'image': f'{cri.REGISTRY}/test/config'})
        cri.wait_until(lambda: self.layers() == [], what='no layer left')
        self.assertEqual(list(self.cri.ListImages().images), [])
        room()
        ref = self.pull('config')
        self.assertEqual([i.id for i in self.cri.ListImages().images], [ref])
        self.restart()
        self.assertEqual([i.id for i in self.cri.ListImages().images], [ref])
        self.cri.RemoveImage(image={'image': ref})

    def test_database_at_the_commit(self):
        """The layers are known, and the image's own record, which is large, has no room."""
        self.data((cri.DATA_DIR, '1m'), (f'{cri.DATA_DIR}/layers', '300m'))
        with LyingRegistry() as registry:
            registry.image('large', [Layer().file('fine', 'fine\n').bytes()], Labels={'large': 'x' * 1200000})
            self.refused(self.cri.PullImage, 'large', 'images.db', image={'image': f'{registry.address}/large'})
        self.assertEqual(list(self.cri.ListImages().images), [])
        # The layer is finished, and may stay for another try.
        cri.wait_until(lambda: len([n for n in self.layers() if len(n) == 8]) == len(self.layers()) <= 1, what='no more than the layer')
        ref = self.pull('config')
        self.restart()
        self.assertEqual([i.id for i in self.cri.ListImages().images], [ref])
        self.cri.RemoveImage(image={'image': ref})

    def test_container_directories(self):
        pod = self.pod()
        for path in (f'{cri.DATA_DIR}/containers', f'{RUNTIME}/containers'):
            with self.subTest(path):
                self.mount(path, '64k', 'nr_inodes=2' if path.startswith(cri.DATA_DIR) else 'nr_inodes=100')
                room = self.fill(path)
                self.refused(self.cri.CreateContainer, 'container full', path, **self.create(pod, 'full'))
                self.assertEqual(len(self.cri.ListContainers().containers), 0)
                self.assertEqual(running.enter('ls', '-A', path), 'filler')
                self.assertFalse(os.path.exists(f'{self.logs}/pod/full.log'))
                room()
                self.unmount()
                self.works(pod, f'after{len(path)}')

    def test_pod_directory(self):
        self.mount(f'{RUNTIME}/pods', '64k')
        room = self.fill(f'{RUNTIME}/pods')
        config = {'metadata': {'name': 'full', 'namespace': 'test', 'uid': 'u'}, 'log_directory': f'{self.logs}/full', 'linux': {}}
        self.refused(self.cri.RunPodSandbox, 'pod test/full', f'{RUNTIME}/pods', config=config)
        self.assertEqual(len(self.cri.ListPodSandbox().items), 0)
        self.assertEqual(running.enter('ls', '-A', f'{RUNTIME}/pods'), 'filler')
        self.assertEqual(running.enter('sh', '-c', 'ls /run/userpod/ns; find /sys/fs/cgroup/pods -mindepth 1 -type d'), '')
        room()
        self.works(self.pod())

    def test_live_store(self):
        """Nothing new is made that a restart would not know; what is there goes on, and what became of it is written later."""
        pod = self.pod()
        ends = self.container(pod, 'trap "exit 7" TERM; echo ready; while :; do usleep 20000; done', 'ends')
        self.wait_for_line('ready', name='ends')
        # All but the database has room of its own.
        for part in ('pods', 'containers'):
            running.enter('sh', '-c', f'mkdir -p /run/kept/{part} && cp -a {RUNTIME}/{part}/. /run/kept/{part}')
        room = self.fill(RUNTIME)
        try:
            self.refused(self.cri.RunPodSandbox, 'pod test/new', 'live.db', config={
                'metadata': {'name': 'new', 'namespace': 'test', 'uid': 'u'}, 'log_directory': f'{self.logs}/new', 'linux': {}})
            self.refused(self.cri.CreateContainer, 'container new', 'live.db', **self.create(pod, 'new'))
            condition = next(c for c in self.cri.Status().status.conditions if c.type == 'Store')
            self.assertFalse(condition.status)
            self.assertIn('live.db', condition.message)
            self.assertEqual(self.state(ends), 'RUNNING')
        finally:
            room()
        cri.wait_until(lambda: next(c for c in self.cri.Status().status.conditions if c.type == 'Store').status, timeout=15, what='a store that works')
        self.works(pod)
        self.cri.StopContainer(container_id=ends, timeout=10)
        self.assertEqual(self.status(ends).exit_code, 7)
        self.restart()
        self.assertEqual([p.id for p in self.cri.ListPodSandbox().items], [pod])
        self.assertEqual([c.id for c in self.cri.ListContainers().containers], [ends])
        self.assertEqual(self.status(ends).exit_code, 7)

    def test_log(self):
        """A log without room loses lines; the container lives, and ends as it would."""
        running.enter('mkdir', '-p', f'{self.logs}/pod')
        self.mount(f'{self.logs}/pod', '64k')
        pod = self.pod()
        container = self.container(pod, 'head -c 300000 /dev/zero | tr "\\0" x; exit 5', 'loud')
        cri.wait_until(lambda: self.state(container) == 'EXITED', timeout=30, what='the exit')
        self.assertEqual(self.status(container).exit_code, 5)
        self.cri.RemoveContainer(container_id=container)
        self.unmount()
        self.works(pod)


if __name__ == '__main__':
    running.main()
