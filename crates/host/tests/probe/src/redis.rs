//! A message is a line of SQL for the database `default`, or the word `trap`.

use bytes::Bytes;
use spin_sdk::redis_subscriber;
use spin_sdk::sqlite::wit::sqlite::Connection;

#[redis_subscriber]
async fn on_message(message: Bytes) -> anyhow::Result<()> {
    let statement = std::str::from_utf8(&message)?;
    assert!(statement != "trap", "asked to trap");
    let db = Connection::open_async("default".to_owned()).await?;
    let (_, _, done) = db.execute_async(statement.to_owned(), Vec::new()).await?;
    done.await?;
    Ok(())
}
