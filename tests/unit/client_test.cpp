// The registry client's pure parts.
#include <gtest/gtest.h>

#include "daemon/images/client/answers.hpp"
#include "daemon/images/client/challenge.hpp"
#include "daemon/images/client/proxies.hpp"
#include "daemon/images/client/retries.hpp"
#include "daemon/images/client/url.hpp"

namespace userpod::images {
namespace {

using std::chrono::seconds;

TEST(Url, Parts) {
  auto url = parseUrl("HTTPS://user:secret@Registry.Example/a/b?sig=%2B#part");
  ASSERT_TRUE(url);
  EXPECT_EQ(url->text, "https://Registry.Example/a/b?sig=%2B");
  EXPECT_EQ(url->authority(), "registry.example");
  EXPECT_EQ(url->port, 443);
  url = parseUrl("http://[::1]:5000/v2/");
  ASSERT_TRUE(url);
  EXPECT_EQ(url->authority(), "[::1]:5000");
  EXPECT_EQ(url->port, 5000);
  for (const std::string& text :
       {std::string("ftp://a/"), std::string("file:///etc/passwd"), std::string("/only/a/path"), std::string(""),
        std::string("https://"), std::string("https://a b/"), std::string("https://a/\r\nX: y"),
        std::string("https://a\0b/", 12), "https://a/" + std::string(20000, 'x')})
    EXPECT_FALSE(parseUrl(text)) << text.substr(0, 50);
  EXPECT_TRUE(sameOrigin(*parseUrl("https://A/x"), *parseUrl("https://a:443/y")));
  for (const char* other : {"http://a/", "https://b/", "https://a:8443/", "https://a.b/"})
    EXPECT_FALSE(sameOrigin(*parseUrl("https://a/"), *parseUrl(other))) << other;
  for (const char* host : {"localhost", "127.0.0.1", "127.9.9.9", "[::1]"}) EXPECT_TRUE(isLoopbackHost(host)) << host;
  for (const char* host : {"localhost.example", "128.0.0.1", "127.0.0.1.example", "[::2]", ""})
    EXPECT_FALSE(isLoopbackHost(host)) << host;
}

TEST(Url, Redirects) {
  auto from = *parseUrl("https://registry.example/v2/");
  auto next = redirectTarget(from, "https://cdn.example/blob?X-Signature=abc");
  ASSERT_TRUE(next);
  EXPECT_EQ(next->text, "https://cdn.example/blob?X-Signature=abc");
  for (const char* to : {"http://registry.example/blob?sig=abc", "file:///etc/passwd?sig=abc", "sig=abc"}) {
    auto refused = redirectTarget(from, to);
    ASSERT_FALSE(refused) << to;
    EXPECT_EQ(refused.error().code(), Code::RegistryUnreachable);
    EXPECT_EQ(refused.error().text().find("abc"), std::string::npos) << refused.error().text();
  }
  EXPECT_TRUE(redirectTarget(*parseUrl("http://localhost:5000/"), "https://cdn.example/"));
  EXPECT_EQ(urlEncode("a+b/c d\xff"), "a%2Bb%2Fc%20d%FF");
}

Proxies proxiesOf(std::map<std::string, std::string> variables) {
  return readProxies([&](const char* name) -> const char* {
    auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(Proxies, Choice) {
  auto proxies = proxiesOf({{"http_proxy", "plain:3128"},
                            {"HTTPS_PROXY", "http://user:p@ss@secure:3128/"},
                            {"no_proxy",
                             "none.example, .below.example 10.0.0.0/8,192.168.1.1 [fd00::]/16,fd01::1,"
                             "port.example:8443,*.star.example"}});
  auto of = [&](const char* url) {
    auto proxy = proxyFor(proxies, *parseUrl(url));
    return proxy ? *proxy : proxy.error().text();
  };
  EXPECT_EQ(of("http://a.example/"), "http://plain:3128");
  EXPECT_EQ(of("https://a.example/"), "http://user:p@ss@secure:3128/");
  for (const char* url :
       {"http://localhost/", "http://127.1.2.3/", "http://[::1]:5/", "https://none.example/", "https://x.NONE.example/",
        "https://x.below.example/", "https://10.1.2.3/", "https://192.168.1.1/", "https://[fd01::1]/",
        "https://port.example:8443/", "https://x.star.example/"})
    EXPECT_EQ(of(url), "") << url;
  for (const char* url : {"https://xnone.example/", "https://below.example/", "https://11.1.2.3/",
                          "https://192.168.1.10/", "https://port.example/", "https://star.example/"})
    EXPECT_NE(of(url), "") << url;
  EXPECT_EQ(proxyName("http://user:p@ss@secure:3128/"), "secure:3128");
  proxies = proxiesOf({{"all_proxy", "socks5h://s:1080"}, {"http_proxy", "gopher://user:word@g:70"}});
  EXPECT_EQ(of("https://a.example/"), "socks5h://s:1080");
  auto wrong = proxyFor(proxies, *parseUrl("http://a.example/"));
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code(), Code::ConfigInvalid);
  EXPECT_EQ(wrong.error().text().find("word"), std::string::npos) << wrong.error().text();
  proxies = proxiesOf({{"ALL_PROXY", "p:1"}, {"NO_PROXY", "*"}});
  EXPECT_EQ(of("https://a.example/"), "");
  EXPECT_EQ(proxiesOf({{"http_proxy", "lower"}, {"HTTP_PROXY", "upper"}}).http, "lower");
}

TEST(Challenge, Table) {
  auto found = parseChallenges(
      R"(Bearer realm="https://auth.example/token",service="reg, \"x\"", scope="repository:a/b:pull,push")");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].scheme, "bearer");
  EXPECT_EQ(found[0].parameters["realm"], "https://auth.example/token");
  EXPECT_EQ(found[0].parameters["service"], "reg, \"x\"");
  EXPECT_EQ(found[0].parameters["scope"], "repository:a/b:pull,push");
  found = parseChallenges("BASIC Realm=here, Bearer realm=\"x\"");
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].parameters["realm"], "here");
  EXPECT_EQ(found[1].scheme, "bearer");
  EXPECT_TRUE(parseChallenges("").empty());
  EXPECT_TRUE(parseChallenges("=,=").empty());
  EXPECT_TRUE(parseChallenges("Bearer realm=\"open")[0].parameters.empty());
  EXPECT_LE(parseChallenges(std::string(100000, ',') + "x").size(), 1U);
}

TEST(Answers, RetryAfter) {
  std::time_t now = 1445412480;  // Wed, 21 Oct 2015 07:28:00 GMT
  EXPECT_EQ(parseRetryAfter("120", now), seconds(120));
  EXPECT_EQ(parseRetryAfter(" 0 ", now), seconds(0));
  EXPECT_EQ(parseRetryAfter("Wed, 21 Oct 2015 07:28:30 GMT", now), seconds(30));
  EXPECT_EQ(parseRetryAfter("Wed, 21 Oct 2015 07:00:00 GMT", now), seconds(0));
  EXPECT_EQ(parseRetryAfter("18446744073709551615", now), seconds(366L * 24 * 3600));
  for (const char* text : {"", "-1", "soon", "1.5", "12 s", "99999999999999999999999"})
    EXPECT_FALSE(parseRetryAfter(text, now)) << text;
}

TEST(Answers, ContentRange) {
  auto range = parseContentRange("bytes 10-19/20");
  ASSERT_TRUE(range);
  EXPECT_EQ(range->first, 10U);
  EXPECT_EQ(range->last, 19U);
  EXPECT_EQ(range->total, 20U);
  range = parseContentRange("bytes 0-0/*");
  ASSERT_TRUE(range);
  EXPECT_FALSE(range->total);
  for (const char* text : {"", "bytes", "bytes */20", "bytes 19-10/20", "bytes 10-20/20", "bytes 1-2/3x", "bytes -5/10",
                           "items 0-1/2", "bytes 99999999999999999999-99999999999999999999/*", "bytes 1-2"})
    EXPECT_FALSE(parseContentRange(text)) << text;
}

TEST(Answers, Tokens) {
  auto token = parseToken(R"({"token":"abc","expires_in":300,"issued_at":"x"})");
  ASSERT_TRUE(token);
  EXPECT_EQ(token->token, "abc");
  EXPECT_EQ(token->lifetime, seconds(300));
  token = parseToken(R"({"access_token":"def","refresh_token":"next"})");
  ASSERT_TRUE(token);
  EXPECT_EQ(token->token, "def");
  EXPECT_EQ(token->refreshToken, "next");
  EXPECT_EQ(token->lifetime, seconds(60));
  EXPECT_EQ(parseToken(R"({"token":"a","expires_in":-5})")->lifetime, seconds(0));
  EXPECT_EQ(parseToken(R"({"token":"a","expires_in":"5"})")->lifetime, seconds(60));
  for (const char* text :
       {"", "[]", "{}", R"({"token":""})", R"({"token":1})", R"({"token":"a\r\nX: y"})", R"({"token":"a b"})", "\"a\""})
    EXPECT_FALSE(parseToken(text)) << text;
  EXPECT_FALSE(parseToken(std::string(60000, '[')));
}

TEST(Answers, Messages) {
  EXPECT_EQ(registryMessage(R"({"errors":[{"code":"DENIED","message":"not\u001b[31m yours"}]})"), " (not[31m yours)");
  EXPECT_EQ(registryMessage(R"({"errors":[{"code":"DENIED"}]})"), " (DENIED)");
  EXPECT_EQ(registryMessage(R"({"error":"invalid_grant","error_description":"expired"})"), " (expired)");
  EXPECT_EQ(registryMessage(R"({"details":"wrong password"})"), " (wrong password)");
  EXPECT_EQ(registryMessage(R"({"errors":[[]]})"), "");
  EXPECT_EQ(registryMessage("<html>"), "");
  EXPECT_EQ(registryMessage("{\"message\":\"" + std::string(1000, 'x') + "\"}").size(), 203U);
}

TEST(Retries, BoundedAndGrowing) {
  Retries none;
  EXPECT_FALSE(none.next(Trouble::NoTls, 0, {}));
  Retries failing;
  std::chrono::milliseconds last{0};
  int tries = 1;
  while (auto wait = failing.next(Trouble::Broken, 0, {})) {
    EXPECT_GT(*wait, last);
    last = *wait;
    ++tries;
  }
  EXPECT_EQ(tries, 4);
  Retries asked;
  auto wait = asked.next(Trouble::BadStatus, 0, seconds(7));
  ASSERT_TRUE(wait);
  EXPECT_EQ(*wait, seconds(7));
  EXPECT_FALSE(asked.next(Trouble::BadStatus, 0, seconds(61)));
  // One that gets on goes on for long, but not for ever.
  Retries slow;
  tries = 1;
  while (slow.next(Trouble::Broken, 1 << 20, {})) ++tries;
  EXPECT_EQ(tries, 50);
}

}  // namespace
}  // namespace userpod::images
