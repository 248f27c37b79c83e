#!/usr/bin/python3
"""Container logs: partial lines, rotation at full speed, log paths that vanish, a full disk."""
import os
import re
import shutil
import time

import cri
import running

LINE = re.compile(rb'(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}\S+) (stdout|stderr) ([FP]) (.*)', re.S)


class Logs(running.Running):
    def path(self, name='main', pod='pod'):
        return f'{self.logs}/{pod}/{name}.log'

    def entries(self, *paths):
        """(stream, tag, text) of each line of these files, read one after the other."""
        found = []
        for path in paths:
            with open(path, 'rb') as f:
                lines = f.read().split(b'\n')
            self.assertEqual(lines.pop(), b'', f'{path} ends within a line')
            for line in lines:
                match = LINE.fullmatch(line)
                self.assertTrue(match, f'{path}: not a log line: {line[:200]!r}')
                found.append(match.groups()[1:])
        return found

    def joined(self, *paths, stream=b'stdout'):
        """The stream as it was written: lines, put together from their parts."""
        text = b''
        for name, tag, part in self.entries(*paths):
            if name == stream:
                text += part + (b'\n' if tag == b'F' else b'')
        return text

    def ended(self, container):
        cri.wait_until(lambda: self.state(container) == 'EXITED', timeout=30, what='the container\'s end')

    def reopen(self, container):
        self.cri.ReopenContainerLog(container_id=container, deadline=10)

    def fails(self, container, code, words):
        with self.assertRaises(cri.grpc.RpcError) as caught:
            self.reopen(container)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        self.assertRegex(caught.exception.details(), words)

    def test_partial_lines(self):
        long = 'head -c 100000 /dev/zero | tr "\\0" x'
        self.ended(self.container(self.pod(), f'echo short; {long}; echo; printf "error, no end" >&2; printf "no end"'))
        self.assertEqual(self.joined(self.path()), b'short\n' + b'x' * 100000 + b'\nno end')
        self.assertEqual(self.joined(self.path(), stream=b'stderr'), b'error, no end')
        entries = self.entries(self.path())
        self.assertEqual(entries[0], (b'stdout', b'F', b'short'))
        tags = [tag for _, tag, text in entries if text[:1] == b'x']
        self.assertGreater(len(tags), 1)
        self.assertEqual(set(tags[:-1]), {b'P'})
        self.assertEqual({tag for _, tag, text in entries if b'no end' in text}, {b'P'})

    def test_rotation_at_full_speed(self):
        pod = self.pod()
        container = self.container(pod, 'trap "exit 0" TERM; i=0; while :; do echo "line $i"; i=$((i + 1)); done')
        path, rotated = self.path(), []
        cri.wait_until(lambda: os.path.getsize(path) > 100000, what='output')
        begin = time.monotonic()
        for i in range(20):
            old = f'{path}.{i:02}'
            os.rename(path, old)
            self.reopen(container)
            self.assertTrue(os.path.exists(path), 'no new file when the call is answered')
            size = os.path.getsize(old)
            rotated.append((old, size))
            cri.wait_until(lambda: os.path.getsize(path) > 0, what='output in the new file')
        took = (time.monotonic() - begin) * 1000 / 20
        for old, size in rotated:
            self.assertEqual(os.path.getsize(old), size, f'{old} grew after the answer')
        self.cri.StopContainer(container_id=container, timeout=10)
        self.assertFalse(os.path.exists(path + '.tmp'))
        lines = self.joined(*(old for old, _ in rotated), path).decode().splitlines()
        self.assertEqual(lines, [f'line {i}' for i in range(len(lines))])
        print(f'{len(lines)} lines in 21 files, {took:.1f} ms a rotation', flush=True)

    def test_states(self):
        pod = self.pod()
        self.fails('0' * 64, cri.Code.NOT_FOUND, 'no container')
        made = self.container(pod, 'echo later; sleep 3600', 'made', start=False)
        os.rename(self.path('made'), self.path('old'))
        self.reopen(made)
        self.cri.StartContainer(container_id=made)
        self.wait_for_line('later', name='made')
        self.assertEqual(os.path.getsize(self.path('old')), 0)
        over = self.container(pod, 'echo over', 'over')
        self.ended(over)
        os.rename(self.path('over'), self.path('kept'))
        self.fails(over, cri.Code.FAILED_PRECONDITION, 'not created or running')
        self.assertFalse(os.path.exists(self.path('over')))
        silent = self.container(pod, 'sleep 3600', 'silent', log_path='')
        self.fails(silent, cri.Code.FAILED_PRECONDITION, 'no log')

    def test_restart_of_the_daemon(self):
        container = self.container(self.pod(), 'trap "exit 0" TERM; i=0; while :; do echo $i; i=$((i + 1)); sleep 0.01; done')
        cri.systemctl('restart', running.DAEMON)
        self.connect()
        os.rename(self.path(), self.path('old'))
        self.reopen(container)
        cri.wait_until(lambda: os.path.getsize(self.path()) > 0, what='output in the new file')
        self.cri.StopContainer(container_id=container, timeout=10)
        lines = self.joined(self.path('old'), self.path()).decode().splitlines()
        self.assertEqual(lines, [str(i) for i in range(len(lines))])

    def test_log_path_vanishes(self):
        pod = self.pod()
        container = self.container(pod, 'while :; do echo here; sleep 0.05; done')
        self.wait_for_line('here')
        os.unlink(self.path())
        self.reopen(container)
        self.wait_for_line('here')
        shutil.rmtree(os.path.dirname(self.path()))
        time.sleep(0.2)
        self.assertEqual(self.state(container), 'RUNNING')
        self.reopen(container)
        self.wait_for_line('here')
        # Where nothing can be made the call says so, and the container goes on.
        shutil.rmtree(os.path.dirname(self.path()))
        with open(os.path.dirname(self.path()), 'w', encoding='utf-8'):
            pass
        self.fails(container, cri.Code.UNKNOWN, 'directory of the log.*Not a directory|Not a directory')
        os.unlink(os.path.dirname(self.path()))
        os.makedirs(self.path())
        self.fails(container, cri.Code.FAILED_PRECONDITION, 'a directory is in the place of the log')
        os.rmdir(self.path())
        time.sleep(0.2)
        self.assertEqual(self.state(container), 'RUNNING')
        self.reopen(container)
        self.wait_for_line('here')

    def test_full_disk(self):
        """A log directory on a file system of 256 KiB in the node: the test reads it there."""
        directory = f'{self.logs}/small'
        os.mkdir(directory)
        running.enter('mount', '-n', '-t', 'tmpfs', '-o', 'size=256k,nr_inodes=8', 'small', directory)
        self.addCleanup(running.enter, 'umount', '-n', directory)
        read = lambda name: running.enter('cat', f'{directory}/{name}')
        config = {'log_directory': directory}
        pod = self.pod('small', **config)
        container = self.container(pod, 'i=0; while :; do echo "line $i"; i=$((i + 1)); [ $((i % 500)) -ne 0 ] || sleep 0.05; done')
        cri.wait_until(lambda: running.enter('df', '--output=avail', directory).split()[-1] == '0', timeout=30, what='a full disk')
        time.sleep(0.5)
        self.assertEqual(self.state(container), 'RUNNING')
        self.assertEqual(self.cri.ExecSync(container_id=container, cmd=['echo', 'alive']).stdout, b'alive\n')
        # Not even a new file can be made.
        running.enter('sh', '-c', f'cd {directory}; mv main.log old.log; for i in 1 2 3 4 5 6 7; do : > fill$i || exit 0; done', check=False)
        self.fails(container, cri.Code.RESOURCE_EXHAUSTED, 'No space')
        self.assertEqual(self.state(container), 'RUNNING')
        self.assertEqual(running.enter('sh', '-c', f'cd {directory}; ls main.log*; true'), '')
        running.enter('sh', '-c', f'cd {directory}; rm -f fill* old.log')
        self.reopen(container)
        text = cri.wait_until(lambda: read('main.log'), what='output after there is room again')
        for line in text.split('\n')[:-1]:
            self.assertRegex(line, r'^\S+ stdout [FP] ')
        self.assertRegex(text.split('\n')[1], r' F line \d+$')
        self.cri.StopPodSandbox(pod_sandbox_id=pod)

    def test_which_logs_stay(self):
        pod = self.pod()
        container = self.container(pod, 'echo kept')
        self.ended(container)
        self.cri.RemoveContainer(container_id=container)
        self.assertEqual(self.texts(), ['kept'])
        with self.assertRaises(cri.grpc.RpcError):
            self.cri.CreateContainer(pod_sandbox_id=pod, sandbox_config=self.configs[pod], config={
                'metadata': {'name': 'bad'}, 'image': {'image': self.image}, 'command': ['/no/such/program'],
                'log_path': 'bad.log', 'linux': {}})
        self.assertEqual(os.listdir(os.path.dirname(self.path())), ['main.log'])


if __name__ == '__main__':
    running.main()
