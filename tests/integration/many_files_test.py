#!/usr/bin/python3
"""Images of 120 layers and of 200,000 files: pulled and run; the times are printed."""
import time

import cri
import running


class ManyFiles(running.Running):
    def pulled(self, name):
        begin = time.monotonic()
        ref = self.cri.PullImage(image={'image': f'{cri.REGISTRY}/test/{name}'}, deadline=300).image_ref
        self.addCleanup(lambda: self.cri.RemoveImage(image={'image': ref}))
        self.addCleanup(self.remove_pods)
        print(f'{name}: pulled in {time.monotonic() - begin:.2f} s', flush=True)
        return ref

    def ran(self, image, script):
        """What the script prints, in a container of the image."""
        begin = time.monotonic()
        container = self.container(self.pod(), script, image={'image': image})
        cri.wait_until(lambda: self.state(container) == 'EXITED', timeout=60, what='the exit')
        print(f'ran in {time.monotonic() - begin:.2f} s', flush=True)
        self.assertEqual(self.status(container).exit_code, 0)
        return self.texts()

    def test_many_layers(self):
        image = self.pulled('many-layers')
        self.assertEqual(self.ran(image, 'cat /n/*'), [str(i) for i in range(119)])

    def test_many_files(self):
        """Counted, and read at both ends of the two layers."""
        if not cri.LONG or cri.SANITIZE:
            print('SKIP: an image of 200,000 files: with --long, without sanitizers')
            self.skipTest('with --long')
        image = self.pulled('many-files')
        found = self.ran(image, 'find /many -type f | wc -l; find /many -type d | wc -l; cat /many/000/000000 /many/099/099999 /many/100/100000 /many/199/199999')
        self.assertEqual(found, ['200000', '201', '000000', '099999', '100000', '199999'])
        begin = time.monotonic()
        self.remove_pods()
        self.configs.clear()
        self.cri.RemoveImage(image={'image': image})
        took = time.monotonic() - begin
        print(f'removed in {took:.2f} s', flush=True)
        # Whoever removes it does not wait for its files, and neither does a stop of the daemon.
        begin = time.monotonic()
        running.restart_daemon()
        self.connect()
        print(f'restarted meanwhile in {time.monotonic() - begin:.2f} s', flush=True)
        cri.wait_until(lambda: not [n for n in running.enter('ls', '-A', f'{cri.DATA_DIR}/layers').split() if n.startswith('.')],
                       timeout=600, what='an empty trash')


if __name__ == '__main__':
    running.main()
