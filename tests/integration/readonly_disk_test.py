#!/usr/bin/python3
"""The data directory is, or becomes, read-only: what runs goes on, what would write says why it does not, nothing is lost or half
made, and all works again once it is writable."""
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

    def read_only(self, path):
        """As whoever opens it from now on sees it: the kernel refuses a remount of what is being written to, and only an error
        of a disk makes that read-only too.  Returns what undoes it."""
        running.enter('sh', '-c', f'mount -n --bind {path} {path} && mount -n -o remount,bind,ro {path}')
        return lambda: running.enter('umount', '-n', '-l', path)

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
        writable = self.read_only(f'{cri.DATA_DIR}/containers')
        try:
            for name in ('new', 'new', 'other'):
                self.refused(self.cri.CreateContainer, pod_sandbox_id=pod, sandbox_config=self.configs[pod], config={
                    'metadata': {'name': name}, 'image': {'image': self.stored}, 'command': ['/bin/true'], 'linux': {}})
            self.assertEqual([c.id for c in self.cri.ListContainers().containers], [lives])
            self.assertEqual(self.state(lives), 'RUNNING')
            self.assertEqual(self.cri.ExecSync(container_id=lives, cmd=['cat', '/etc/passwd'], timeout=10).exit_code, 0)
            self.cri.StopContainer(container_id=lives, timeout=10)
            self.assertEqual(self.status(lives).exit_code, 7)
        finally:
            writable()
        self.cri.RemoveContainer(container_id=lives)
        after = self.container(pod, 'echo fine', 'new')
        cri.wait_until(lambda: self.state(after) == 'EXITED', what='the exit')
        self.assertEqual(self.texts(name='new'), ['fine'])

    def test_at_the_start(self):
        """Refused, with the mend; and once it is writable the daemon starts by itself."""
        cri.systemctl('stop', running.SOCKET, running.DAEMON)
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
