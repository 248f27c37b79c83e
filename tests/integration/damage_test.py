#!/usr/bin/python3
"""Databases that are damaged, and a data directory that cannot be used: running containers keep their root, errors are named."""
import os
import time

import cri
import running


class Damage(running.Running):
    def damage(self, path):
        """With the daemon away: a page of the database becomes noise, and its journal goes."""
        cri.systemctl('stop', running.SOCKET, running.DAEMON)
        with open(path, 'r+b') as f:
            f.write(os.urandom(4096))
        for suffix in ('-wal', '-shm'):
            if os.path.exists(path + suffix):
                os.unlink(path + suffix)

    def test_images_lost_below_running_containers(self):
        pod = self.pod()
        container = self.container(pod, 'trap "exit 0" TERM; echo ready; while :; do usleep 20000; done')
        self.wait_for_line('ready')
        layers = running.enter('ls', f'{cri.DATA_DIR}/layers').split()
        self.assertTrue(layers)
        self.damage(f'{cri.DATA_DIR}/images.db')
        self.connect()
        self.assertEqual(list(self.cri.ListImages().images), [])
        self.assertEqual(self.state(container), 'RUNNING')
        time.sleep(1)                                # a layer that was thrown away would be gone by now
        self.assertEqual(running.enter('ls', f'{cri.DATA_DIR}/layers').split(), layers)
        self.assertEqual(self.cri.ExecSync(container_id=container, cmd=['/bin/busybox', 'echo', 'whole']).stdout, b'whole\n')
        # Pulled again, beside what is in use; a second restart keeps both.
        self.assertEqual(self.cri.PullImage(image={'image': running.IMAGE}).image_ref, self.image)
        cri.systemctl('restart', running.DAEMON)
        self.connect()
        self.assertEqual(self.cri.ExecSync(container_id=container, cmd=['/bin/busybox', 'echo', 'whole']).stdout, b'whole\n')
        other = self.container(pod, 'echo fine', 'other')
        cri.wait_until(lambda: self.state(other) == 'EXITED', what='the exit')
        self.assertEqual(self.texts(name='other'), ['fine'])
        self.cri.StopContainer(container_id=container, timeout=5)
        self.assertEqual(self.status(container).exit_code, 0)
        self.cri.RemovePodSandbox(pod_sandbox_id=pod)
        cri.systemctl('restart', running.DAEMON)
        self.connect()
        cri.wait_until(lambda: len(running.enter('ls', f'{cri.DATA_DIR}/layers').split()) == 1, what='only the new layer')
        os.unlink(f'{cri.DATA_DIR}/images.db.damaged')

    def test_data_directory_that_cannot_be_written(self):
        for what, options, words in (('read-only', ['-o', 'ro,size=1m,mode=0700'], ('read-only', 'mount it writable')),):
            with self.subTest(what):
                cri.systemctl('stop', running.SOCKET, running.DAEMON)
                running.enter('mount', '-n', '-t', 'tmpfs', *options, 'userpod-test', cri.DATA_DIR)
                try:
                    since = time.time()
                    cri.run('systemctl', '--user', 'start', running.DAEMON, check=False)
                    text = cri.wait_until(lambda: self.said(since, 'images and containers'), what='the error in the journal')
                    for word in (cri.DATA_DIR, *words):
                        self.assertIn(word.lower(), text.lower())
                finally:
                    running.enter('umount', '-n', cri.DATA_DIR)
                    cri.run('systemctl', '--user', 'reset-failed', running.DAEMON, running.SOCKET, check=False)
                self.connect()
        self.assertEqual([i.id for i in self.cri.ListImages().images], [self.image])

    def said(self, since, words):
        lines = cri.run('journalctl', '--user', '-u', running.DAEMON, '--since', f'@{since:.0f}', '-o', 'cat', check=False).split('\n')
        return next((line for line in lines if words in line), None)


if __name__ == '__main__':
    running.main()
