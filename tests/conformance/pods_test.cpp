// RunPodSandbox: the fields of PodSandboxConfig.
#include "tests/conformance/world.hpp"

namespace userpod::conformance {

TEST(RunPodSandbox, IsReadyWhenItReturns) {
  PROMISE("1.1.2 ready");
  Pod pod;
  auto status = pod.status();
  EXPECT_EQ(status.id(), pod.id());
  EXPECT_EQ(status.state(), v1::SANDBOX_READY);
  EXPECT_GT(status.created_at(), 0);
}

TEST(RunPodSandbox, HostnameIsThatOfItsContainers) {
  PROMISE("1.1.2 hostname");
  Pod pod([](auto& c) { c.set_hostname("a-name"); });
  Container container(pod);
  EXPECT_EQ(container.text("hostname"), "a-name");
  EXPECT_EQ(container.text("cat /etc/hostname"), "a-name");
  EXPECT_EQ(container.text("echo $HOSTNAME"), "a-name");
}

TEST(RunPodSandbox, GroupWithoutUserIsRefused) {
  PROMISE("1.1.2 group");
  v1::RunPodSandboxRequest request;
  *request.mutable_config() =
      podConfig([](auto& c) { c.mutable_linux()->mutable_security_context()->mutable_run_as_group()->set_value(5); });
  expectFailure(request, {StatusCode::INVALID_ARGUMENT}, "run_as_group");
}

}  // namespace userpod::conformance
