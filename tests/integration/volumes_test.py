#!/usr/bin/python3
"""Image volumes: images mounted read only in containers, whole and in part, with each storage driver; what holds an image,
what a restart and a kill of the daemon leave, and what is refused."""
import grpc

import cri
import running

VOLUME = f'{cri.REGISTRY}/test/volume:latest'
SERVICE = 'trap "exit 0" TERM; echo ready; while :; do usleep 20000; done'


def mount(path, image, part='', **more):
    return {'container_path': path, 'readonly': True, 'image': {'image': image}, 'image_sub_path': part, **more}


class Volumes(running.Running):
    def setUp(self):
        super().setUp()
        self.volume = self.cri.PullImage(image={'image': VOLUME}).image_ref
        self.addCleanup(self.remove_volume_image)

    def remove_volume_image(self):
        self.connect()
        self.remove_pods()
        self.cri.RemoveImage(image={'image': self.volume})

    def run_to_end(self, pod, script, name, **more):
        """Its log's lines."""
        container = self.container(pod, script, name, **more)
        cri.wait_until(lambda: self.state(container) == 'EXITED', what='the exit')
        return self.texts(pod=self.configs[pod]['metadata']['name'], name=name)

    def refusal(self, pod, *mounts):
        with self.assertRaises(grpc.RpcError) as caught:
            self.container(pod, 'true', 'refused', start=False, mounts=mounts)
        self.assertEqual(list(self.cri.ListContainers(filter={'pod_sandbox_id': pod}).containers), [])
        return caught.exception.code(), caught.exception.details()

    def assert_nothing_is_left(self):
        cri.wait_until(lambda: running.enter('ls', '-A', f'{cri.DATA_DIR}/containers') == '', what='removed files')
        self.assertEqual(running.enter('sh', '-c', f'grep -c {cri.DATA_DIR}/containers /proc/self/mountinfo; true'), '0')

    def test_with_each_driver(self):
        for driver in ('overlay', 'fuse-overlayfs', 'copy'):
            with self.subTest(driver), running.storage_driver(driver):
                self.connect()
                pod = self.pod(driver)
                lines = self.run_to_end(
                    pod, 'all=$(cat /whole/site/pages/index; ls /whole; stat -c "%u:%g %a" /whole/own; cat /part/index; cat /file; cat /linked/index;'
                         'touch /whole/x /part/x /root/bin/x 2>&1; echo x 2>&1 > /file; /root/bin/busybox echo runs; rm /whole/own 2>&1; echo $?); echo "$all"', 'all',
                    mounts=[mount('/whole', VOLUME), mount('/part', self.volume, 'site/pages'), mount('/file', self.volume, 'inside/index'),
                            mount('/linked', self.volume, 'inside'), mount('/root', self.image)])
                readonly = 'Read-only file system'
                self.assertEqual(lines, [
                    'page', 'inside', 'outside', 'own', 'process', 'setuid', 'site', '7:8 600', 'page', 'page', 'page',
                    f'touch: /whole/x: {readonly}', f'touch: /part/x: {readonly}', f'touch: /root/bin/x: {readonly}',
                    f"/bin/sh: can't create /file: {readonly}", 'runs', f"rm: can't remove '/whole/own': {readonly}", '1'])
                self.cri.RemovePodSandbox(pod_sandbox_id=pod)
                self.assert_nothing_is_left()
        self.connect()

    def test_status_restart_and_use(self):
        """Shown as asked for; the image stays while the volume does, over a restart too; both end with the container."""
        pod = self.pod()
        container = self.container(pod, SERVICE, mounts=[mount('/v', VOLUME, 'site'), mount('/twice', VOLUME, 'site')])
        other = self.container(pod, SERVICE, 'other', mounts=[mount('/v', self.volume)])
        self.wait_for_line('ready')
        shown = self.status(container).mounts[0]
        self.assertEqual((shown.container_path, shown.host_path, shown.readonly, shown.image.image, shown.image.image_ref, shown.image_sub_path),
                         ('/v', '', True, VOLUME, self.volume, 'site'))
        options = self.cri.ExecSync(container_id=container, cmd=['grep', ' /v ', '/proc/self/mountinfo']).stdout.decode().split(' ')[5]
        self.assertLessEqual({'ro', 'nosuid', 'nodev'}, set(options.split(',')))
        before = self.status(container)
        running.restart_daemon()
        self.connect()
        self.assertEqual(self.status(container), before)
        for path in '/v', '/twice':
            self.assertEqual(self.cri.ExecSync(container_id=container, cmd=['cat', f'{path}/pages/index']).stdout, b'page\n')
        self.assertEqual(cri.code_of(self.cri.RemoveImage, image={'image': VOLUME}), cri.Code.FAILED_PRECONDITION)
        self.cri.StopContainer(container_id=container, timeout=5)
        mounted = lambda: running.enter('sh', '-c', f'grep -c {container}/volumes /proc/self/mountinfo; true')
        cri.wait_until(lambda: mounted() == '0', what='the end of its mounts')
        self.assertEqual(self.cri.ExecSync(container_id=other, cmd=['cat', '/v/site/pages/index']).stdout, b'page\n')
        self.cri.RemoveContainer(container_id=container)
        self.assertEqual(cri.code_of(self.cri.RemoveImage, image={'image': VOLUME}), cri.Code.FAILED_PRECONDITION)
        self.cri.RemovePodSandbox(pod_sandbox_id=pod)
        self.assert_nothing_is_left()
        self.cri.RemoveImage(image={'image': VOLUME})
        self.assertFalse(self.cri.ImageStatus(image={'image': VOLUME}).HasField('image'))

    def test_refused(self):
        """By the name that clients know, and nothing of the container stays."""
        pod = self.pod()
        for volume, words in ((mount('/v', f'{cri.REGISTRY}/test/none:1'), 'pull it first'), (mount('/v', VOLUME, 'site/none'), 'is not in it'),
                              (mount('/v', VOLUME, 'gone'), 'is not in it'), (mount('/v', VOLUME, 'outside'), 'is not in it'),
                              (mount('/v', VOLUME, 'process'), 'is not in it')):
            code, text = self.refusal(pod, mount('/fine', VOLUME), volume)
            self.assertEqual(code, cri.Code.UNKNOWN, text)
            self.assertTrue(text.startswith('ImageVolumeMountFailed: '), text)
            self.assertIn(words, text)
            self.assertIn('/v', text)
        for volume in (mount('/v', VOLUME, readonly=False), mount('/v', VOLUME, '/site'), mount('/v', VOLUME, 'site/../..'),
                       mount('/v', VOLUME, host_path='/var/tmp')):
            self.assertEqual(self.refusal(pod, volume)[0], cri.Code.INVALID_ARGUMENT)
        self.assertEqual(list(self.cri.ListContainers().containers), [])
        self.assert_nothing_is_left()

    def test_killed_in_the_middle(self):
        self.addCleanup(cri.systemctl, 'unset-environment', 'USERPOD_KILL_AT')
        pod = self.pod()
        cri.systemctl('set-environment', 'USERPOD_KILL_AT=volume.mounted:2')
        running.restart_daemon()
        self.connect()
        self.assertEqual(self.refusal(pod, mount('/a', VOLUME), mount('/b', VOLUME, 'site'))[0], cri.Code.UNAVAILABLE)
        cri.systemctl('unset-environment', 'USERPOD_KILL_AT')
        running.restart_daemon()
        self.connect()
        self.assertEqual(list(self.cri.ListContainers().containers), [])
        self.assert_nothing_is_left()


if __name__ == '__main__':
    running.main()
