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

    def test_pods_lost(self):
        """What nobody knows any more is ended and taken away, and the next pod is made as if it were the first."""
        pod = self.pod()
        self.container(pod, 'trap "" TERM; echo ready; while :; do usleep 20000; done')
        self.container(pod, 'true', 'waits', start=False)
        self.wait_for_line('ready')
        self.damage(f'{cri.RUNTIME_DIR}/userpod/live.db')
        self.connect()
        self.assertEqual(len(self.cri.ListPodSandbox().items) + len(self.cri.ListContainers().containers), 0)

        def left():
            """In the node: processes, cgroups, mounts, pins and directories of pods and containers."""
            return running.enter('sh', '-c', f"""
                pgrep -a conmon; find /sys/fs/cgroup -mindepth 2 -maxdepth 3 -type d | grep -E '/(pods|mon)/'; ls /run/userpod/ns /run/userpod/oci/crun | grep -v :
                grep -oE '[^ ]*/userpod/(pods|containers|data/containers)/[^ ]*' /proc/self/mountinfo; find {cri.DATA_DIR}/containers -mindepth 1
                find {cri.RUNTIME_DIR}/userpod/pods {cri.RUNTIME_DIR}/userpod/containers {cri.RUNTIME_DIR}/userpod/exits -mindepth 1""", check=False)
        try:
            cri.wait_until(lambda: left() == '', timeout=15, what='nothing of the lost pod')
        except TimeoutError:
            self.fail(left())
        os.unlink(f'{cri.RUNTIME_DIR}/userpod/live.db.damaged')
        del self.configs[pod]
        container = self.container(self.pod(), 'echo fine', 'after')
        cri.wait_until(lambda: self.state(container) == 'EXITED', what='the exit')
        self.assertEqual(self.texts(name='after'), ['fine'])

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
