//! The stock client in the cache.

use std::process::Command;

#[test]
fn the_client_is_installed_once_and_starts() {
    let client = devtools::client::install().expect("the client");
    let again = devtools::client::install().expect("the client");
    assert_eq!(client.vdk(), again.vdk());
    let home = tempfile::tempdir().expect("a folder");
    let output = Command::new(client.vdk())
        .arg("version")
        .envs(devtools::client::Client::variables(home.path()))
        .output()
        .expect("vdk");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains("vdk-plugin-control-cli"), "{said}");
    let generated = Command::new(client.python()).args(["-c", "import taurus_datajob_api"]).status().expect("python");
    assert!(generated.success(), "the generated client is there too");
}
