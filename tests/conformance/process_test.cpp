// CreateContainer: which program runs, with what words, environment, directory and streams.
#include "tests/conformance/edits.hpp"

namespace userpod::conformance {
namespace {

// A terminal's line ends are CR LF; some runtimes log them so.
std::string withoutReturns(std::string text) {
  std::erase(text, '\r');
  return text;
}

}  // namespace

TEST(CreateContainer, ImageSaysWhatRunsWithoutCommandAndArgs) {
  PROMISE("1.3 command");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, ofImage("test/config:latest"), noCommand).out, "entry default\n");
}

TEST(CreateContainer, ArgsAloneReplaceCmd) {
  PROMISE("1.3 command");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, ofImage("test/config:latest"), noCommand, args({"mine", "too"})).out, "entry mine too\n");
}

TEST(CreateContainer, CommandReplacesEntrypointAndCmd) {
  PROMISE("1.3 command");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, ofImage("test/config:latest"), command({"/bin/echo"})).out, "\n");
}

TEST(CreateContainer, ArgsFollowCommand) {
  PROMISE("1.3 command");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, ofImage("test/config:latest"), command({"/bin/echo", "a"}), args({"b", "c"})).out, "a b c\n");
}

TEST(CreateContainer, WordsArriveUnchanged) {
  PROMISE("1.3 words");
  Pod pod;
  auto words = args({"two words", "", "$HOME `id` \"'\\", "a\nb\t", "ü€", "-n", "{{x}}"});
  auto ended = runToEnd(pod, command({"/bin/sh", "-c", "for a; do printf '[%s]' \"$a\"; done", "sh"}), words);
  EXPECT_EQ(ended.out, "[two words][][$HOME `id` \"'\\][a\nb\t][ü€][-n][{{x}}]");
}

TEST(CreateContainer, ProgramIsFoundInPathOfTheContainer) {
  PROMISE("1.3 command");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, command({"echo", "found"})).out, "found\n");
}

TEST(CreateContainer, ImageWithoutProgramAndNoCommandIsRefused) {
  PROMISE("1.3 command none");
  Pod pod;
  expectRefused(pod, {}, "command|no program|args", [](Config& c) {
    noCommand(c);
    c.add_command("");
  });
}

TEST(CreateContainer, EnvironmentOfTheImageIsSet) {
  PROMISE("1.3 envs");
  Pod pod;
  auto ended = runToEnd(pod, ofImage("test/config:latest"), shell("echo \"$FROM_IMAGE\"; echo \"${EMPTY-unset}\""));
  EXPECT_EQ(ended.out, "yes\n\n");
}

TEST(CreateContainer, EnvsOverrideTheImage) {
  PROMISE("1.3 envs");
  Pod pod;
  auto ended = runToEnd(pod, ofImage("test/config:latest"), shell("env | grep -c ^FROM_IMAGE=; echo $FROM_IMAGE$ADDED"),
                        variable("FROM_IMAGE", "mine"), variable("ADDED", "+1"));
  EXPECT_EQ(ended.out, "1\nmine+1\n");
}

TEST(CreateContainer, EnvsOverridePathHomeAndHostname) {
  PROMISE("1.3 envs");
  Pod pod;
  auto ended = runToEnd(pod, shell("echo $PATH $HOME $HOSTNAME"), variable("PATH", "/bin:/mine"),
                        variable("HOME", "/somewhere"), variable("HOSTNAME", "other"));
  EXPECT_EQ(ended.out, "/bin:/mine /somewhere other\n");
}

TEST(CreateContainer, LastOfEqualEnvsCounts) {
  PROMISE("1.3 envs");
  Pod pod;
  auto ended = runToEnd(pod, shell("env | grep ^TWICE="), variable("TWICE", "first"), variable("TWICE", "second"));
  EXPECT_EQ(ended.out, "TWICE=second\n");
}

TEST(CreateContainer, EnvValuesArriveUnchanged) {
  PROMISE("1.3 envs bytes");
  Pod pod;
  const std::string value = "a=b\nc\td \\ \"'$X` \x01 ü€";
  auto ended = runToEnd(pod, shell("printf %s \"$V\" | base64 -w0"), variable("V", value));
  EXPECT_EQ(ended.out, "YT1iCmMJZCBcICInJFhgIAEgw7zigqw=");
}

// The OCI runtime's configuration is JSON, which has no bytes: such a value arrives as it is or is refused by name.
TEST(CreateContainer, EnvValueThatIsNotUtf8ArrivesOrIsRefusedByName) {
  PROMISE("1.3 envs bytes");
  Pod pod;
  auto config = containerConfig(pod, shell("printf %s \"$BYTES\" | base64"), variable("BYTES", "a\xff\xfe\x80z"));
  auto answer = attempt(createRequest(pod, config));
  if (!answer.status.ok()) {
    EXPECT_EQ(answer.status.error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_NE(answer.status.error_message().find("BYTES"), std::string::npos) << answer.status.error_message();
    return;
  }
  removeContainer(answer.value.container_id());
  EXPECT_EQ(runToEnd(pod, config).out, "Yf/+gHo=\n");
}

TEST(CreateContainer, EnvNameMayNotBeEmptyOrHaveAnEqualsSign) {
  PROMISE("1.3 envs wrong");
  Pod pod;
  for (const auto* name : {"", "A=B"}) expectRefused(pod, {StatusCode::INVALID_ARGUMENT}, "envs", variable(name, "x"));
}

TEST(CreateContainer, HomeIsThatOfTheUser) {
  PROMISE("1.3 envs HOME");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, shell("echo $HOME")).out, "/root\n");
  EXPECT_EQ(runToEnd(pod, ofImage("test/user:latest"), shell("echo $HOME")).out, "/home/app\n");
}

TEST(CreateContainer, TtyIsATerminalWithTerm) {
  PROMISE("1.3 tty");
  Pod pod;
  auto script = shell("for i in 0 1 2; do test -t $i || echo no $i; done; tty; echo $TERM");
  auto ended = runToEnd(pod, script, [](Config& c) { c.set_tty(true); });
  EXPECT_EQ(withoutReturns(ended.out), "/dev/pts/0\nxterm\n");
  EXPECT_EQ(ended.err, "");
}

TEST(CreateContainer, WithoutTtyIsNoTerminal) {
  PROMISE("1.3 tty");
  Pod pod;
  auto ended = runToEnd(pod, shell("for i in 0 1 2; do test -t $i && echo terminal; done; echo ${TERM-none}"));
  EXPECT_EQ(ended.out, "none\n");
}

TEST(CreateContainer, TermOfTheRequestWins) {
  PROMISE("1.3 tty");
  Pod pod;
  auto ended = runToEnd(pod, shell("echo $TERM"), variable("TERM", "vt100"), [](Config& c) { c.set_tty(true); });
  EXPECT_EQ(withoutReturns(ended.out), "vt100\n");
}

TEST(CreateContainer, WithoutStdinThereIsNothingToRead) {
  PROMISE("1.3 stdin");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, shell("cat; echo end")).out, "end\n");
}

TEST(CreateContainer, StdinStaysOpenUntilSomebodyAttaches) {
  PROMISE("1.3 stdin");
  Pod pod;
  for (bool once : {false, true}) {
    Container container(pod, shell("echo up; cat; echo end"), [&](Config& c) {
      c.set_stdin(true);
      c.set_stdin_once(once);
    });
    container.up();
    std::this_thread::sleep_for(milliseconds(300));
    EXPECT_EQ(container.state(), v1::CONTAINER_RUNNING) << "stdin_once " << once;
    EXPECT_EQ(container.out(), "up\n");
  }
}

TEST(CreateContainer, WorkingDirOfTheImage) {
  PROMISE("1.3 working_dir");
  Pod pod;
  EXPECT_EQ(runToEnd(pod, ofImage("test/config:latest"), shell("pwd")).out, "/work\n");
  EXPECT_EQ(runToEnd(pod, shell("pwd")).out, "/\n");
}

TEST(CreateContainer, WorkingDirOfTheRequestWins) {
  PROMISE("1.3 working_dir");
  Pod pod;
  auto ended = runToEnd(pod, ofImage("test/config:latest"), shell("pwd"), [](Config& c) { c.set_working_dir("/tmp"); });
  EXPECT_EQ(ended.out, "/tmp\n");
}

TEST(CreateContainer, WorkingDirIsMadeWhenMissing) {
  PROMISE("1.3 working_dir made");
  Pod pod;
  auto ended = runToEnd(pod, shell("pwd; test -d /made/for/this && echo there"),
                        [](Config& c) { c.set_working_dir("/made/for/this"); });
  EXPECT_EQ(ended.out, "/made/for/this\nthere\n");
}

TEST(CreateContainer, WorkingDirInAMountIsMadeThere) {
  PROMISE("1.3 working_dir made");
  Pod pod;
  auto directory = scratchDirectory();
  auto ended = runToEnd(pod, shell("pwd; echo x > file"), mount(directory, "/data"),
                        [](Config& c) { c.set_working_dir("/data/new"); });
  EXPECT_EQ(ended.out, "/data/new\n");
  EXPECT_EQ(readFile(directory + "/new/file"), "x\n");
}

TEST(CreateContainer, RelativeWorkingDirIsRefused) {
  PROMISE("1.3 working_dir wrong");
  Pod pod;
  expectRefused(pod, {StatusCode::INVALID_ARGUMENT}, "working_dir", [](Config& c) { c.set_working_dir("here"); });
}

}  // namespace userpod::conformance
