#!/usr/bin/python3
"""The real kubectl: exec, attach and cp over SPDY and over WebSockets, from the host's network and from the node's."""
import hashlib
import os
import random
import subprocess
import time
import unittest

import cri
import kubectl

MEGABYTE = 1 << 20
# What the shell itself says of the hangup of its child goes to a pipe that is closed.
HANGUP = 'trap "" PIPE; trap "echo hangup > /tmp/end; exit" HUP; echo up; while :; do usleep 20000; done'


def noise(size):
    return random.Random(size).randbytes(size)


class Exec(kubectl.Kubectl):
    def exec(self, *words, **more):
        return self.kubectl('exec', 'pod', '--', *words, **more)

    def test_streams_and_exit_status(self):
        done = self.exec('sh', '-c', 'echo out; echo err >&2; exit 7', status=7)
        self.assertEqual((done.stdout, done.stderr), (b'out\n', b'err\ncommand terminated with exit code 7\n'))
        done = self.exec('sh', '-c', 'echo fine')
        self.assertEqual((done.stdout, done.stderr), (b'fine\n', b''))
        self.assertEqual(self.exec('true').stdout, b'')
        self.assertIn(b'exit code 143', self.exec('sh', '-c', 'kill -TERM $$', status=143).stderr)
        self.check_protocol('exec by v5.channel.k8s.io in websocket' if self.websockets else 'exec by v4.channel.k8s.io in spdy/3.1')

    def test_words_arrive_as_they_are(self):
        words = ['a b', '', '$HOME', "it's", 'é\t"', '%20&x=1']
        self.assertEqual(self.exec('printf', '[%s]', *words).stdout.decode(), ''.join(f'[{w}]' for w in words))

    def test_stdin(self):
        for size in (0, 1, 100000, 16 * MEGABYTE + 3):
            data = noise(size)
            done = self.kubectl('exec', '-i', 'pod', '--', 'cat', input=data)
            self.assertEqual(hashlib.md5(done.stdout).digest(), hashlib.md5(data).digest(), size)
        done = self.kubectl('exec', '-i', 'pod', '--', 'sh', '-c', 'md5sum; echo end >&2; exit 3', input=data, status=3)
        self.assertEqual(done.stdout.split()[0].decode(), hashlib.md5(data).hexdigest())
        # A command that does not read all of it.
        self.assertEqual(self.kubectl('exec', '-i', 'pod', '--', 'head', '-c', '5', input=data).stdout, data[:5])
        # Without -i there is none.
        self.assertEqual(self.exec('cat', input=b'not for you').stdout, b'')

    def test_large_output(self):
        self.inside('i=0; while [ $i -lt 40 ]; do head -c 1000003 /dev/urandom >> /tmp/big; i=$((i+1)); done')
        sum = self.inside('md5sum < /tmp/big').split()[0]
        self.assertEqual(hashlib.md5(self.exec('cat', '/tmp/big').stdout).hexdigest(), sum)
        done = self.exec('sh', '-c', 'cat /tmp/big >&2 & cat /tmp/big; wait')
        self.assertEqual([hashlib.md5(s).hexdigest() for s in (done.stdout, done.stderr)], [sum, sum])
        # The last words of a command that ends at once, many times.
        for _ in range(10):
            done = self.exec('sh', '-c', 'head -c 300000 /tmp/big; echo last >&2; exit 9', status=9)
            # kubectl itself complains now and then of the empty message that opens a stream.
            words = [line for line in done.stderr.split(b'\n') if b'Unknown stream id' not in line]
            self.assertEqual((len(done.stdout), words[0]), (300000, b'last'))

    def test_terminal(self):
        terminal = self.terminal('exec', '-it', 'pod', '--', 'sh')
        terminal.wait_for('# ')
        terminal.type('tty; stty size\r')
        terminal.wait_for(r'/dev/(pts/\d+|console)\r\n37 91\r\n')
        terminal.resize(120, 50)
        for _ in range(50):
            terminal.type('stty size\r')
            if terminal.wait_for(r'\n(\d+ \d+)\r')[1] == b'50 120':
                break
            time.sleep(0.1)
        else:
            self.fail('the terminal is not resized')
        terminal.type('echo go; sleep 1000\r')
        terminal.wait_for('\ngo\r')
        time.sleep(0.2)
        terminal.type('\x03')
        terminal.wait_for('# ')
        terminal.type('echo "was $?"\r')
        terminal.wait_for('\nwas 130\r')
        terminal.type('exit 4\r')
        self.assertEqual(terminal.end(), 4)
        self.assertIn(b'exit code 4', terminal.seen)

    def test_size_of_a_terminal_is_there_from_the_beginning(self):
        for _ in range(5):
            terminal = self.terminal('exec', '-it', 'pod', '--', 'stty', 'size', columns=133, rows=21)
            terminal.wait_for('^21 133\r\n')
            self.assertEqual(terminal.end(), 0)

    def test_output_of_a_terminal(self):
        self.inside('seq 200000 > /tmp/lines')
        terminal = self.terminal('exec', '-it', 'pod', '--', 'cat', '/tmp/lines')
        terminal.wait_for('\r\n200000\r\n')
        self.assertEqual(terminal.end(), 0)
        # End of file is typed.
        terminal = self.terminal('exec', '-it', 'pod', '--', 'cat')
        terminal.type('line\r')
        terminal.wait_for('line\r\nline\r\n')
        terminal.type('\x04')
        self.assertEqual(terminal.end(), 0)

    def test_what_cannot_run(self):
        for words in (['/no/such/program'], ['/etc/passwd']):
            done = subprocess.run(self.command('exec', 'pod', '--', *words), env=self.env, capture_output=True, timeout=30)
            self.assertNotEqual(done.returncode, 0)
            self.assertTrue(done.stderr)
        self.cri.StopContainer(container_id=self.main, timeout=5)
        self.assertIn(b'error', self.exec('true', status=1).stderr.lower())

    def test_the_container_ends(self):
        running = self.start('exec', 'pod', '--', 'sh', '-c', 'echo up; sleep 1000', stdout=subprocess.PIPE)
        self.assertEqual(running.stdout.readline(), b'up\n')
        self.cri.StopContainer(container_id=self.main, timeout=5)
        self.assertEqual(running.wait(timeout=20), 137)

    def test_a_child_that_keeps_the_pipes(self):
        begin = time.monotonic()
        done = self.exec('sh', '-c', 'sleep 300 & echo done; exit 6', status=6)
        self.assertEqual(done.stdout, b'done\n')
        self.assertLess(time.monotonic() - begin, 30)

    def test_a_client_that_is_killed(self):
        for options in ([], ['-i'], ['-it']):
            with self.subTest(options):
                self.inside('rm -f /tmp/end')
                if '-it' in options:
                    terminal = self.terminal('exec', '-it', 'pod', '--', 'sh', '-c', HANGUP)
                    terminal.wait_for('up\r\n')
                    process = terminal.process
                else:
                    process = self.start('exec', *options, 'pod', '--', 'sh', '-c', HANGUP, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                    self.assertEqual(process.stdout.readline(), b'up\n')
                self.kill(process)
                cri.wait_until(lambda: self.inside('cat /tmp/end 2>/dev/null || true') == 'hangup', what='the hangup')
                self.assertEqual(self.processes('echo hangup'), [])

    def test_a_reader_that_goes(self):
        process = self.start('exec', 'pod', '--', 'yes', stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.assertEqual(len(process.stdout.read(MEGABYTE)), MEGABYTE)
        process.stdout.close()
        process.wait(timeout=20)
        cri.wait_until(lambda: not self.processes('yes'), what='the end of the command')

    def test_a_slow_reader_loses_nothing(self):
        self.inside('i=0; while [ $i -lt 30 ]; do head -c 1000003 /dev/urandom >> /tmp/big; i=$((i+1)); done')
        process = self.start('exec', 'pod', '--', 'cat', '/tmp/big', stdout=subprocess.PIPE)
        time.sleep(3)
        # Others go on meanwhile.
        self.assertEqual(self.exec('echo', 'hello').stdout, b'hello\n')
        got = hashlib.md5(process.stdout.read()).hexdigest()
        self.assertEqual((got, process.wait(timeout=20)), (self.inside('md5sum < /tmp/big').split()[0], 0))

    def test_many_at_once(self):
        processes = [self.start('exec', '-i', 'pod', '--', 'sh', '-c', f'cat; exit {n}', stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                     for n in range(1, 13)]
        for n, process in enumerate(processes, 1):
            self.assertEqual(process.communicate(noise(10000 + n), timeout=60)[0], noise(10000 + n))
            self.assertEqual(process.returncode, n)

    def test_copies(self):
        data = noise(3 * MEGABYTE + 17)
        tree = f'{self.home}/tree'
        os.makedirs(f'{tree}/sub')
        for name in ('a', 'sub/b', 'sub/with space'):
            with open(f'{tree}/{name}', 'wb') as f:
                f.write(data)
        self.kubectl('cp', tree, 'pod:/tmp/tree')
        sums = self.inside('cd /tmp/tree; find . -type f | sort | while read f; do md5sum "$f"; done')
        self.assertEqual(sums.split('\n'), [f'{hashlib.md5(data).hexdigest()}  ./{name}' for name in ('a', 'sub/b', 'sub/with space')])
        self.kubectl('cp', 'pod:/tmp/tree', f'{self.home}/back')
        for name in ('a', 'sub/b', 'sub/with space'):
            with open(f'{self.home}/back/{name}', 'rb') as f:
                self.assertEqual(f.read(), data, name)


class ExecByWebSocket(Exec):
    websockets = True


class Attach(kubectl.Kubectl):
    READER = 'while read line; do echo "got $line"; echo "seen $line" >&2; done; echo ended; exit 5'

    def reader(self, script=READER, **fields):
        made = self.container(self.sandbox, script, 'reader', start=False, **{'stdin': True, **fields})
        self.cri.StartContainer(container_id=made)
        return made

    def attach(self, *options, **more):
        return self.start('attach', *options, 'pod', '-c', 'reader', stdout=subprocess.PIPE, **more)

    def test_output_only(self):
        made = self.reader('while [ ! -e /tmp/go ]; do usleep 20000; done; seq 1000; sleep 0.2; echo last; exit 5', stdin=False)
        readers = [self.attach(stderr=subprocess.DEVNULL) for _ in range(3)]
        cri.wait_until(lambda: len(self.streams()) == 3, what='three streams', timeout=30)
        time.sleep(0.3)
        self.inside('touch /tmp/go', made)
        for reader in readers:
            out = reader.communicate(timeout=30)[0]
            self.assertEqual(out.decode().split(), [*map(str, range(1, 1001)), 'last'])
            self.assertEqual(reader.returncode, 0)
        self.assertEqual(self.status(made).exit_code, 5)
        # It has ended: there is nothing to attach to.
        self.assertEqual(self.kubectl('attach', 'pod', '-c', 'reader', status=1).stdout, b'')

    def test_stdin_once(self):
        made = self.reader(stdin_once=True)
        process = self.attach('-i', stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(b'one\ntwo\n', timeout=30)
        self.assertEqual(out, b'got one\ngot two\nended\n')
        self.assertIn(b'seen one\nseen two\n', err)
        self.assertEqual((process.returncode, self.state(made), self.status(made).exit_code), (0, 'EXITED', 5))

    def test_stdin_stays_open(self):
        made = self.reader()
        watcher = self.attach(stderr=subprocess.DEVNULL)
        cri.wait_until(lambda: len(self.streams()) == 1, what='a stream', timeout=30)
        for word in (b'one', b'two'):
            process = self.attach('-i', stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
            process.stdin.write(word + b'\n')
            process.stdin.flush()
            self.assertEqual(process.stdout.readline(), b'got ' + word + b'\n')
            self.kill(process)
        self.assertEqual(self.state(made), 'RUNNING')
        self.assertEqual([watcher.stdout.readline() for _ in range(2)], [b'got one\n', b'got two\n'])
        self.cri.StopContainer(container_id=made, timeout=0)
        self.assertEqual(watcher.wait(timeout=20), 0)

    def test_large_input(self):
        made = self.reader('md5sum; echo ended', stdin_once=True)
        data = noise(8 * MEGABYTE + 1)
        process = self.attach('-i', stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        out = process.communicate(data, timeout=60)[0]
        self.assertEqual(out.decode().split(), [hashlib.md5(data).hexdigest(), '-', 'ended'])
        self.assertEqual((process.returncode, self.status(made).exit_code), (0, 0))

    def test_terminal(self):
        made = self.reader('exec sh', tty=True)
        terminal = self.terminal('attach', '-it', 'pod', '-c', 'reader')
        cri.wait_until(lambda: len(self.streams()) == 1, what='a stream', timeout=30)
        terminal.type('\r')
        terminal.wait_for('# ')
        for _ in range(50):
            terminal.type('stty size\r')
            if terminal.wait_for(r'\n(\d+ \d+)\r')[1] == b'37 91':
                break
            time.sleep(0.1)
        else:
            self.fail('the terminal has not got its size')
        # A window that is drawn larger: what counts is its size at the end.
        for size in range(20, 60):
            terminal.resize(100, size)
            time.sleep(0.002)
        time.sleep(0.5)
        terminal.type('echo; stty size\r')
        self.assertEqual(terminal.wait_for(r'\n(\d+ \d+)\r')[1], b'59 100')
        terminal.type('sleep 1000\r')
        time.sleep(0.3)
        terminal.type('\x03')
        terminal.wait_for('# ')
        terminal.type('exit 3\r')
        self.assertEqual(terminal.end(), 0)
        cri.wait_until(lambda: self.state(made) == 'EXITED', what='the end')
        self.assertEqual(self.status(made).exit_code, 3)


class AttachByWebSocket(Attach):
    websockets = True


@kubectl.only('test_streams_and_exit_status', 'test_stdin', 'test_terminal', 'test_a_client_that_is_killed', 'test_copies')
class ExecInNode(Exec):
    prefix = kubectl.ENTER


@kubectl.only('test_stdin_once', 'test_terminal')
class AttachInNodeByWebSocket(Attach):
    websockets = True
    prefix = kubectl.ENTER


class Versions(kubectl.Kubectl):
    """What is to be had of other kubectls: before 1.30 they speak SPDY alone, from 1.31 on WebSockets first."""

    def test_all(self):
        if not kubectl.VERSIONS:
            self.skipTest('there is only one kubectl')
        for name in ('KUBECTL_REMOTE_COMMAND_WEBSOCKETS', 'KUBECTL_PORT_FORWARD_WEBSOCKETS'):
            del self.env[name]
        for program in kubectl.VERSIONS:
            with self.subTest(program):
                done = self.kubectl('exec', '-i', 'pod', '--', 'sh', '-c', 'cat; exit 3', input=b'hello\n', status=3, program=program)
                self.assertEqual(done.stdout, b'hello\n')
        self.assertNotIn('refused', self.logged())
        self.assertEqual(len(self.streams()), len(kubectl.VERSIONS))


if __name__ == '__main__':
    unittest.TestCase.maxDiff = 2000
    kubectl.main()
