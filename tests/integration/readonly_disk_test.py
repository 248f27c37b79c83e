#!/usr/bin/python3
"""The data directory becomes read-only while the daemon runs: what runs goes on, what would write says why it does not, nothing is
lost or half made, and all works again once it is writable."""
import subprocess

import cri
import running

Code = cri.Code


class ReadOnlyDisk(running.Running):
    def setUp(self):
        super().setUp()
        # A file system of the node's own over the data directory.  The user's host never sees it.
        running.enter('mount', '-n', '-t', 'tmpfs', '-o', 'size=300m,mode=0755', 'userpod-test', cri.DATA_DIR)
        self.addCleanup(self.leave)
        self.restart()
        self.stored = self.cri.PullImage(image={'image': running.IMAGE}).image_ref

    def leave(self):
        self.remove_pods()
        self.configs = {}
        running.enter('umount', '-n', '-l', cri.DATA_DIR)
        self.restart()

    def restart(self):
        running.restart_daemon()
        self.connect()

    def remount(self, mode):
        running.enter('mount', '-n', '-o', f'remount,{mode}', cri.DATA_DIR)

    def refused(self, call, **fields):
        with self.assertRaises(cri.grpc.RpcError) as failed:
            call(**fields)
        text = failed.exception.details()
        print(text)
        self.assertIn('Read-only file system', text)
        self.assertIn(cri.DATA_DIR, text)

    def test_while_it_runs(self):
        pod = self.pod()
        lives = self.container(pod, 'trap "exit 7" TERM; echo ready; while :; do usleep 20000; done', 'lives')
        self.wait_for_line('ready', name='lives')
        # As the kernel does after an error of the disk: without asking who writes.
        self.container(pod, 'exit 0', 'before')
        self.cri.StopContainer(container_id=self.cri.ListContainers(filter={'id': lives}).containers[0].id, timeout=10)
        self.assertEqual(self.status(lives).exit_code, 7)
        self.remount('ro')
        try:
            self.refused(self.cri.PullImage, image={'image': f'{cri.REGISTRY}/test/config'})
            self.refused(self.cri.CreateContainer, pod_sandbox_id=pod, sandbox_config=self.configs[pod], config={
                'metadata': {'name': 'new'}, 'image': {'image': self.stored}, 'command': ['/bin/true'], 'linux': {}})
            self.assertEqual([i.id for i in self.cri.ListImages().images], [self.stored])
            self.assertEqual(len(self.cri.ListContainers().containers), 2)
            self.assertEqual(self.status(lives).exit_code, 7)
            self.assertNotEqual(cri.code_of(self.cri.RemoveImage, image={'image': self.stored}), Code.OK)
            self.assertEqual([i.id for i in self.cri.ListImages().images], [self.stored])
        finally:
            self.remount('rw')
        after = self.container(pod, 'echo fine', 'after')
        cri.wait_until(lambda: self.state(after) == 'EXITED', what='the exit')
        self.assertEqual(self.texts(name='after'), ['fine'])
        other = self.cri.PullImage(image={'image': f'{cri.REGISTRY}/test/config'}).image_ref
        self.restart()
        self.assertEqual(sorted(i.id for i in self.cri.ListImages().images), sorted([self.stored, other]))
        self.cri.RemoveImage(image={'image': other})

    def test_at_the_start(self):
        """Refused, with the mend; and once it is writable the daemon starts by itself."""
        self.remount('ro')
        try:
            got = subprocess.run(['systemctl', '--user', 'restart', running.DAEMON], capture_output=True, text=True, check=False)
            self.assertNotEqual(got.returncode, 0)
            status = cri.wait_until(lambda: cri.systemctl('show', '-P', 'StatusText', running.DAEMON), what='the status text')
            print(status)
            for words in (cri.DATA_DIR, 'mount it writable'):
                self.assertIn(words, status)
        finally:
            self.remount('rw')
        self.connect()
        self.assertEqual([i.id for i in self.cri.ListImages().images], [self.stored])


if __name__ == '__main__':
    running.main()
