#!/usr/bin/python3
"""The stop of the node: containers get their stop signal and finish, with a daemon and without; nothing is left."""
import os
import subprocess
import tempfile
import time

import cri
import running

# A database: at its stop signal it still has something to write, slowly.
WRITER = '''trap 'for i in 1 2 3 4 5; do echo part $i >> /data/file; usleep 100000; done; echo whole >> /data/file; echo bye; exit 3' %s
echo ready; while :; do usleep 5000; done'''


class NodeStop(running.Running):
    def writer(self, pod, name, **fields):
        data = f'{self.logs}/data-{name}'
        os.mkdir(data)
        made = self.container(pod, WRITER % fields.pop('trap', 'TERM'), name,
                              mounts=[{'container_path': '/data', 'host_path': data}], **fields)
        self.wait_for_line('ready', name=name)
        return made

    def written(self, name):
        with open(f'{self.logs}/data-{name}/file', encoding='utf-8') as f:
            return f.read().split('\n')

    def oracle(self, verb, file):
        # What stays is for the next start: the images and upper layers, the live store with its exits.
        got = subprocess.run(['/usr/bin/python3', f'{cri.ROOT}/tests/oracle', verb, '--except', 'data,run', file],
                             capture_output=True, text=True, timeout=60)
        self.assertEqual(got.returncode, 0, got.stdout + got.stderr)

    def stop_and_look(self, first=()):
        with tempfile.TemporaryDirectory(dir='/var/tmp') as d:
            cri.systemctl('stop', running.SOCKET, running.DAEMON, running.NODE)
            self.oracle('snapshot', f'{d}/empty')
            self.connect()
            pod = self.pod(annotations={'io.kubernetes.pod.terminationGracePeriod': '20'})
            other = self.pod('other')
            writers = {'asked': self.writer(pod, 'asked'),
                       'own': self.writer(pod, 'own', trap='USR1', stop_signal=cri.api().SIGNAL_SIGUSR1)}
            deaf = self.container(other, 'trap "" TERM; while :; do usleep 5000; done', 'deaf',
                                  annotations={'io.kubernetes.pod.terminationGracePeriod': '1'})
            done = self.container(other, 'exit 9', 'done')
            made = self.container(other, 'true', 'made', start=False)
            cri.wait_until(lambda: self.state(done) == 'EXITED', what='an exit')
            finished = self.status(done).finished_at
            for unit in first:
                cri.systemctl('stop', unit)
            begin = time.time_ns()
            cri.systemctl('stop', running.NODE)
            end = time.time_ns()
            for name in writers:
                self.assertEqual(self.written(name), [f'part {i}' for i in range(1, 6)] + ['whole', ''], name)
                self.assertEqual(self.texts(name=name), ['ready', 'bye'])
            self.assertEqual(cri.systemctl('show', '-P', 'Result', running.NODE), 'success')
            self.assertEqual(cri.systemctl('show', '-P', 'ActiveState', running.DAEMON), 'inactive')
            self.assertLess((end - begin) / 1e9, 15)
            cri.systemctl('stop', running.SOCKET)
            self.oracle('check', f'{d}/empty')

        # The next start knows them all, ended.
        self.connect()
        for name, container in writers.items():
            status = self.status(container)
            self.assertEqual((status.state, status.exit_code), (cri.api().CONTAINER_EXITED, 3), name)
            self.assertTrue(begin - 10_000_000 <= status.finished_at <= end, name)
        self.assertEqual((self.state(deaf), self.status(deaf).exit_code), ('EXITED', 137))
        self.assertEqual((self.status(done).exit_code, self.status(done).finished_at), (9, finished))
        self.assertEqual(self.state(made), 'EXITED')
        for pod in (pod, other):
            self.assertEqual(self.pod_status(pod).state, cri.api().SANDBOX_NOTREADY)
            self.cri.StopPodSandbox(pod_sandbox_id=pod)
            self.cri.RemovePodSandbox(pod_sandbox_id=pod)
        self.assertEqual(list(self.cri.ListContainers().containers), [])
        # And the node works as before.
        again = self.container(self.pod('again'), 'echo again')
        cri.wait_until(lambda: self.state(again) == 'EXITED', what='the exit of a container in the new node')
        self.assertEqual(self.texts('again'), ['again'])

    def test_with_the_daemon(self):
        self.stop_and_look()

    def test_without_a_daemon(self):
        self.stop_and_look(first=[running.SOCKET, running.DAEMON])


if __name__ == '__main__':
    running.main()
