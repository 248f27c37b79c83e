// A container's states, from CreateContainer to RemoveContainer.
#include <filesystem>

#include "tests/conformance/world.hpp"

namespace userpod::conformance {

TEST(RemoveContainer, KeepsTheLog) {
  PROMISE("1.1.11 log");
  Pod pod;
  auto done = runToEnd(pod, shell("echo kept"), [](auto& c) { c.set_log_path("kept.log"); });
  EXPECT_EQ(done.status.exit_code(), 0);
  EXPECT_EQ(logText(readLog(pod.config().log_directory() + "/kept.log")), "kept\n");
}

TEST(StopContainer, TimeoutOfZeroKillsAtOnce) {
  PROMISE("1.1.10 zero");
  Pod pod;
  Container container(pod, shell("trap '' TERM; echo deaf; while :; do sleep 1; done"));
  container.waitForLine("deaf").stop(0);
  EXPECT_EQ(container.state(), v1::CONTAINER_EXITED);
  EXPECT_EQ(container.status().exit_code(), 137);
}

}  // namespace userpod::conformance
