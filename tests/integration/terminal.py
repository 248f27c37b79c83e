"""A command of userpodctl on a terminal of its own."""
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import threading

import cri
import running

CTL = f'{running.PREFIX}/bin/userpodctl'
ESCAPE = re.compile(r'\x1b\[[?0-9;]*[A-Za-z]')


class Terminal:
    """A command on a terminal of that size; what it writes is read all the time."""

    def __init__(self, *arguments, columns=80, rows=24, environment=None):
        self.master, slave = pty.openpty()
        self.resize(columns, rows)
        self.text = b''
        # The terminal becomes its controlling one, which Popen cannot do without code between fork and exec.
        self.process = subprocess.Popen(['setsid', '--ctty', '--wait', CTL, *arguments], stdin=slave, stdout=slave, stderr=slave,
                                        env={**os.environ, 'TERM': 'xterm', **(environment or {})})
        os.close(slave)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def resize(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))

    def read(self):
        while True:
            try:
                select.select([self.master], [], [])
                data = os.read(self.master, 65536)
            except OSError:                          # the other side is closed
                return
            if not data:
                return
            self.text += data

    def type(self, data):
        os.write(self.master, data)

    def shown(self):
        return self.text.decode(errors='replace')

    def wait_for(self, *texts):
        return cri.wait_until(lambda: all(t in self.shown() for t in texts), timeout=30, what=f'{texts} on the terminal')

    def end(self):
        """The exit status, when all is read."""
        status = self.process.wait(60)
        self.reader.join(10)
        os.close(self.master)
        return status
